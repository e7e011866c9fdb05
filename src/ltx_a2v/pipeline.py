"""Audio-to-video: the method, top to bottom.

It follows the reference's two stages (`A2VidPipelineTwoStage`): denoise at half size with guidance, upsample the
latent, refine at full size with the distilled LoRA, decode. In quality fast, stage 1 takes the distilled LoRA too, and
one pass. The sound conditions every step and is never changed.

Every function below is a phase or a part of one. It uses the model as `ModelInUse`, so that the planner can run the
same functions on `meta` and measure their memory. Opening, planning, retrying and reporting are in `session.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, computes, passes_of
from ltx_a2v.diffusion.latents import HeldPicture, StageLatent, start_stage
from ltx_a2v.diffusion.sampler import denoise
from ltx_a2v.diffusion.schedule import distilled_sigmas, stage_1_sigmas, stage_2_sigmas
from ltx_a2v.errors import NotFinite, named
from ltx_a2v.events import Notice, Phase, StepFinished
from ltx_a2v.fitting import FittedPicture, FittedRequest, VideoShape
from ltx_a2v.media.frames import HostFrames, to_host
from ltx_a2v.media.output_file import write_whole
from ltx_a2v.media.sound.mel import log_mel
from ltx_a2v.media.sound.prepare import AudioClip, load_audio, resample
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.model.in_use import LoadedTransformer, ModelInUse
from ltx_a2v.networks import audio_vae, video_vae
from ltx_a2v.networks.text import Context
from ltx_a2v.networks.tiling import temporal_spans
from ltx_a2v.networks.upsampler import upsample
from ltx_a2v.phases import PhaseLog, Work
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.request import Guidance
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.versions import ModelConfig, Schedule


@dataclass(frozen=True)
class Stage:
    """One of the two denoising stages."""

    name: Phase
    scale: int
    """What width and height are divided by."""
    sigmas: Tensor
    """[steps + 1] float32 on the CPU."""
    noise_scale: float
    """The share of noise that the stage starts with."""
    guidance: Guidance
    distilled: bool
    """With the distilled LoRA, unless the checkpoint itself is distilled."""

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def sweeps(self) -> int:
        """Steps that run the transformer, each of which visits every block once."""
        return sum(computes(step, self.guidance) for step in range(self.steps))


@dataclass(frozen=True)
class Conditions:
    """The encoded conditions of a video: prompts, sound and picture."""

    positive: Context
    negative: Context
    """The positive one where no pass asks for it."""
    sound: Tensor
    """Packed latent, [1, T, audio channels]."""
    pictures: Mapping[int, Sequence[HeldPicture]]
    """By scale."""


@dataclass(frozen=True)
class StageWork:
    """All that the steps of a stage depend on, besides the weights."""

    stage: Stage
    start: StageLatent
    inputs: StageInputs


def generate_video(model: ModelInUse, prompts: PromptEncoder, fitted: FittedRequest, log: PhaseLog) -> Work[None]:
    """The whole method: writes the request's video, and its latents where asked for."""
    request, shape, schedule = fitted.request, fitted.shape, model.config.version.schedule
    noise = torch.Generator(model.device).manual_seed(request.seed)

    clip, mel = yield from log.phase("load_audio", lambda: load_sound(fitted, model.config))
    positive, negative = yield from log.phase("encode_prompt", lambda: encode_prompts(model, prompts, fitted))
    sound = yield from log.phase("encode_audio", lambda: encode_sound(model, mel, shape.audio_tokens))
    pictures = yield from log.phase("encode_image", lambda: encode_pictures(model, fitted.pictures))
    conditions = Conditions(positive, negative, sound, pictures)

    with ExitStack() as stack:
        half = half_stage(request.num_inference_steps, shape, schedule)
        transformer = yield from log.phase(
            "load_transformer", lambda: stack.enter_context(model.transformer(half.distilled))
        )
        coarse = yield from log.phase(
            half.name,
            lambda: denoise_stage(model, transformer, half, fitted, conditions, None, noise),
            steps=half.steps,
        )
        upsampled = yield from log.phase("upsample", lambda: upsample_latent(model, coarse))
        full = Stage("stage_2", 1, stage_2_sigmas(schedule), schedule.stage_2[0], UNGUIDED, distilled=True)
        fine = yield from log.phase(
            full.name,
            lambda: denoise_stage(model, transformer, full, fitted, conditions, upsampled, noise),
            steps=full.steps,
        )

    latents = {"stage_1": coarse, "stage_2": fine}
    yield from log.phase("decode", lambda: write_video(model, fitted, latents, clip), steps=decode_steps(model, shape))


def half_stage(steps: int, shape: VideoShape, schedule: Schedule) -> Stage:
    """Stage 1: `steps` guided steps, or in quality fast those that distilled weights need, in one pass."""
    fast = shape.quality == "fast"
    sigmas = distilled_sigmas(schedule) if fast else stage_1_sigmas(steps, schedule)
    return Stage("stage_1", 2, sigmas, 1.0, shape.guidance, distilled=fast)


def load_sound(fitted: FittedRequest, config: ModelConfig) -> Work[tuple[AudioClip, Tensor]]:
    """The clip at its own rate for the video, and its log-mel spectrogram [1, 2, frames, bins] for the model."""
    request, seconds = fitted.request, fitted.shape.seconds
    with on_host():
        clip = load_audio(request.audio, request.audio_start_time, seconds)
        mel = log_mel(
            resample(clip.waveform, clip.sample_rate, config.sample_rate),
            sample_rate=config.sample_rate,
            n_fft=config.fft_length,
            hop=config.hop_length,
            n_mels=config.mel_bins,
        )
    if clip.padded_seconds >= 0.01:
        yield Notice(
            f"The audio is {clip.padded_seconds:.2f} s shorter than the video of {seconds:.2f} s; the rest is silence."
        )
    return clip, mel


def encode_prompts(model: ModelInUse, prompts: PromptEncoder, fitted: FittedRequest) -> Work[tuple[Context, Context]]:
    """Positive and negative context; where no pass asks for the negative one, the positive stands in."""
    guided = Pass.NEGATIVE in passes_of(fitted.shape.guidance)
    texts = [fitted.request.prompt, fitted.request.negative_prompt][: 1 + guided]
    contexts = yield from prompts.encode(model, texts)
    return contexts[0], contexts[-1]


def encode_sound(model: ModelInUse, mel: Tensor, tokens: int) -> Tensor:
    """[1, 2, frames, bins] -> packed latent [1, tokens, audio channels]."""
    with model.use("audio_encoder") as encoder:
        latent = encoder(mel.to(model.device, model.dtype))
    return audio_vae.pack_audio(audio_vae.fit_length(latent, tokens))


def encode_pictures(model: ModelInUse, pictures: Sequence[FittedPicture]) -> dict[int, list[HeldPicture]]:
    """[1, 3, 1, H, W] -> [1, C, 1, H/32, W/32] of every picture, by scale."""
    if not pictures:
        return {}
    with model.use("video_encoder") as encoder:
        return {
            scale: [
                HeldPicture(encoder(p.pixels[scale].to(model.device, model.dtype)), p.frame, p.strength)
                for p in pictures
            ]
            for scale in pictures[0].pixels
        }


def denoise_stage(
    model: ModelInUse,
    transformer: LoadedTransformer,
    stage: Stage,
    fitted: FittedRequest,
    conditions: Conditions,
    initial: Tensor | None,
    noise: torch.Generator | None,
) -> Work[Tensor]:
    """-> latent [1, C, F, H, W]; begins from the `initial` one, or where there is none from noise alone."""
    shape = fitted.shape
    grid = shape.grid(stage.scale)
    start = start_stage(
        grid,
        initial if initial is not None else _zeros(model, grid.frames, grid.height, grid.width),
        conditions.pictures.get(stage.scale, ()),
        stage.noise_scale,
        noise,
        conditions.sound,
    )
    inputs = StageInputs(
        grid=grid,
        frame_rate=shape.frame_rate,
        mask=start.mask,
        audio_tokens=conditions.sound,
        positive_text=conditions.positive.video,
        negative_text=conditions.negative.video,
        audio_text=conditions.positive.audio,
        appended=tuple(frame for frame in shape.pictures if frame),
    )
    latent = yield from run_steps(model, transformer, StageWork(stage, start, inputs))
    check_finite(latent, stage.name)
    return grid.unpack(latent[:, : grid.tokens])


def run_steps(model: ModelInUse, transformer: LoadedTransformer, work: StageWork) -> Work[Tensor]:
    """-> packed latent [1, tokens, channels]. Every process of a clip runs this, with its share of the passes."""
    stage, start, guidance = work.stage, work.start, work.stage.guidance
    passes, perturbed = passes_of(guidance), frozenset(guidance.stg_blocks or ())
    with (
        model.sharing(passes, perturbed, stage.sweeps, work) as share,
        model.adapted(transformer, stage.distilled, sweeps=stage.sweeps) as blocks,
    ):
        forward = StageForward(
            transformer.module, work.inputs, share.own, perturbed, blocks.sweep, model.exact_passes, blocks.graphs
        )
        velocities_of, latent = share.gathered(forward.velocities), start.noisy
        for step, latent in enumerate(denoise(velocities_of, start, stage.sigmas, guidance), start=1):  # noqa: B007
            yield from map(Notice, blocks.graphs.take_notices() if blocks.graphs else ())
            yield StepFinished(stage.name, step, stage.steps)
    return latent


def upsample_latent(model: ModelInUse, latent: Tensor) -> Tensor:
    """[1, C, F, H, W] -> [1, C, F, 2H, 2W]."""
    with model.use("upsampler") as upsampler:
        return upsample(upsampler, latent, model.latent_statistics())


def write_video(model: ModelInUse, fitted: FittedRequest, latents: Mapping[str, Tensor], clip: AudioClip) -> Work[None]:
    """Decode the latent and write the video with the original sound; each frame is encoded as soon as it is decoded.

    The latents are saved before the video is renamed to its path: where they cannot be written, no file is left.
    """
    request, shape = fitted.request, fitted.shape
    with VideoWriter(
        request.output_path, width=shape.width, height=shape.height, frame_rate=shape.frame_rate, audio=clip
    ) as writer:
        for step, frames in enumerate(decode(model, latents["stage_2"]), start=1):
            writer.write(*frames)
            yield StepFinished("decode", step, decode_steps(model, fitted.shape))
        if request.save_latents:
            write_whole(request.save_latents, save({k: t.float().cpu().contiguous() for k, t in latents.items()}))


def decode(model: ModelInUse, latent: Tensor) -> Iterator[HostFrames]:
    """[1, C, F, H, W] -> 8-bit frames of 32H x 32W pixels, first to last. On a GPU they may still be computing."""
    with model.use("video_decoder") as decoder:
        for piece in video_vae.decode_pieces(decoder, latent, model.config.version.tiling):
            frames = to_host(piece)
            del piece  # before the next is made
            yield frames


def decode_steps(model: ModelInUse, shape: VideoShape) -> int:
    """How many pieces `decode` gives."""
    return len(temporal_spans(model.config.version.tiling, shape.grid(1).frames))


def check_finite(latent: Tensor, phase: Phase) -> None:
    """A latent with NaN or Inf would decode to a black or grey video."""
    if not latent.is_meta and not latent.isfinite().all():
        raise NotFinite(
            f"{phase} computed NaN or Inf: the weights may be damaged, or this quantization too coarse; try "
            f"{named('transformer_quantization')} none, other LoRAs, or download the files again."
        )


def _zeros(model: ModelInUse, *grid: int) -> Tensor:
    return torch.zeros(1, model.config.version.latents.channels, *grid, device=model.device, dtype=model.dtype)
