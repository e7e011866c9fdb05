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
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, computes, passes_of
from ltx_a2v.diffusion.latents import HeldPicture, StageLatent, start_stage
from ltx_a2v.diffusion.previews import Painter, Previews
from ltx_a2v.diffusion.sampler import denoise
from ltx_a2v.diffusion.schedule import distilled_sigmas, stage_1_sigmas, stage_2_sigmas
from ltx_a2v.errors import NotFinite, named
from ltx_a2v.events import Notice, Phase, StepFinished, WindowStarted
from ltx_a2v.fitting import FittedPicture, FittedRequest, Repair, VideoShape, shape_of_window, shown_in
from ltx_a2v.media.frames import to_host, to_rgb, to_yuv420p
from ltx_a2v.media.join import join
from ltx_a2v.media.label import label_of
from ltx_a2v.media.output_file import write_whole
from ltx_a2v.media.read_video import each_planes
from ltx_a2v.media.sound.conditioning import prepare_speech
from ltx_a2v.media.sound.mel import log_mel
from ltx_a2v.media.sound.prepare import AudioClip, load_audio, resample
from ltx_a2v.media.video import Marks, VideoWriter
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
from ltx_a2v.windows import Cut, HandedOn, Window, statistics_of, with_colours
from ltx_a2v.work_dir import WorkDir

COLOURS_HELD = 0.15
"""How far the colours of a later window are moved to those of the first."""


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
class Speech:
    """The sound of the whole video."""

    clip: AudioClip
    """What is heard, at its own rate."""
    heard: Tensor
    """What the model hears, [2, samples] at its rate."""


@dataclass(frozen=True)
class Conditions:
    """The encoded conditions of a window: prompts, sound and pictures."""

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


def generate_video(
    model: ModelInUse,
    prompts: PromptEncoder,
    fitted: FittedRequest,
    log: PhaseLog,
    work: WorkDir | None,
    marks: Marks | None,
) -> Work[None]:
    """The whole method: writes the request's video with its `marks`, and its latents where asked for. `work` keeps the
    windows of a video that has several."""
    speech = yield from log.phase("load_audio", lambda: load_sound(fitted, model.config))
    contexts = yield from log.phase("encode_prompt", lambda: encode_prompts(model, prompts, fitted))

    if work is None:
        (window,) = fitted.windows
        repair = fitted.repair
        shown = shown_to(fitted, window, None) if repair is None else [repair.shown]
        latents = yield from make_window(model, fitted, window, contexts, speech, shown, log)
        steps = decode_steps(model, fitted.shape)
        if repair is None:
            yield from log.phase("decode", lambda: write_video(model, fitted, latents, speech.clip, marks), steps=steps)
        else:
            fine = latents["stage_2"]
            yield from log.phase("decode", lambda: write_repaired(model, fitted, repair, fine, marks), steps=steps)
        return

    before: HandedOn | None = None
    for window in fitted.windows:
        before = yield from finished_window(model, fitted, window, contexts, speech, before, log, work)
    segments = [work.segment(window) for window in fitted.windows]
    join(segments, fitted.request.output_path, fitted.video.frame_rate, speech.clip, marks)
    work.remove(fitted.windows)


def finished_window(
    model: ModelInUse,
    fitted: FittedRequest,
    window: Window,
    contexts: tuple[Context, Context],
    speech: Speech,
    before: HandedOn | None,
    log: PhaseLog,
    work: WorkDir,
) -> Work[HandedOn]:
    """What the window hands on, which is made unless an earlier run has made it."""
    known = work.finished(window)
    yield WindowStarted(window.index + 1, len(fitted.windows), known is not None)
    if known is not None:
        return known
    shown = shown_to(fitted, window, before)
    latents = yield from make_window(model, fitted, window, contexts, speech, shown, log)
    steps = decode_steps(model, shape_of_window(fitted.video, window))
    handed_on = yield from log.phase(
        "decode", lambda: write_window(model, fitted, window, latents.pop("stage_2"), before, work), steps=steps
    )
    work.finish(window, handed_on)
    return handed_on


def make_window(
    model: ModelInUse,
    fitted: FittedRequest,
    window: Window,
    contexts: tuple[Context, Context],
    speech: Speech,
    shown: Sequence[FittedPicture],
    log: PhaseLog,
) -> Work[dict[str, Tensor]]:
    """The latents of both stages, [1, C, F, H, W], for one window, which may be the whole video."""
    request, shape, schedule = fitted.request, shape_of_window(fitted.video, window), model.config.version.schedule
    noise = torch.Generator(model.device).manual_seed((request.seed + window.index) % 2**63)
    model.computes(shape.computed)

    mel = log_mel_of(speech, window, shape, model.config)
    sound = yield from log.phase("encode_audio", lambda: encode_sound(model, mel, shape.audio_tokens))
    pictures = yield from log.phase("encode_image", lambda: encode_pictures(model, shown))
    conditions = Conditions(*contexts, sound, pictures)
    painter = painter_of(pictures, shown) if request.previews else None

    with ExitStack() as stack:
        half = half_stage(request.num_inference_steps, shape, schedule)
        transformer = yield from log.phase(
            "load_transformer", lambda: stack.enter_context(model.transformer(half.distilled))
        )
        coarse = yield from log.phase(
            half.name,
            lambda: denoise_stage(model, transformer, half, shape, conditions, None, noise, painter),
            steps=half.steps,
        )
        upsampled = yield from log.phase("upsample", lambda: upsample_latent(model, coarse))
        full = Stage("stage_2", 1, stage_2_sigmas(schedule), schedule.stage_2[0], UNGUIDED, distilled=True)
        fine = yield from log.phase(
            full.name,
            lambda: denoise_stage(model, transformer, full, shape, conditions, upsampled, noise, painter),
            steps=full.steps,
        )
    return {"stage_1": coarse, "stage_2": fine}


def shown_to(fitted: FittedRequest, window: Window, before: HandedOn | None) -> list[FittedPicture]:
    """The pictures that a window is shown, and from its first frame on those that the window before made."""
    frames = [picture.frame for picture in fitted.pictures]
    own = [replace(fitted.pictures[index], frame=frame) for index, frame in shown_in(window, frames)]
    if before is None:
        return own
    with on_host():
        full = before.frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # [1, 3, overlap, H, W]
        half = F.avg_pool3d(full, (1, 2, 2))
    return [FittedPicture(0, 1.0, {2: half, 1: full}), *own]


def half_stage(steps: int, shape: VideoShape, schedule: Schedule) -> Stage:
    """Stage 1: `steps` guided steps, or in quality fast those that distilled weights need, in one pass."""
    fast = shape.quality == "fast"
    sigmas = distilled_sigmas(schedule) if fast else stage_1_sigmas(steps, schedule)
    return Stage("stage_1", 2, sigmas, 1.0, shape.guidance, distilled=fast)


def load_sound(fitted: FittedRequest, config: ModelConfig) -> Work[Speech]:
    request, seconds = fitted.request, fitted.video.seconds
    with on_host():
        clip = load_audio(request.audio, request.audio_start_time, seconds)
        prepared = (
            clip.waveform if request.speech_preparation == "off" else prepare_speech(clip.waveform, clip.sample_rate)
        )
        heard = resample(prepared, clip.sample_rate, config.sample_rate)
    if clip.padded_seconds >= 0.01:
        yield Notice(
            f"The audio is {clip.padded_seconds:.2f} s shorter than the video of {seconds:.2f} s; the rest is silence."
        )
    return Speech(clip, heard)


def log_mel_of(speech: Speech, window: Window, shape: VideoShape, config: ModelConfig) -> Tensor:
    """The window's log-mel spectrogram [1, 2, frames, bins]; after the sound there is silence."""
    begin, end = (
        round(frame / shape.frame_rate * config.sample_rate) for frame in (window.start, window.start + window.frames)
    )
    with on_host():
        part = speech.heard[:, begin:end]
        return log_mel(
            F.pad(part, (0, end - begin - part.shape[1])),
            sample_rate=config.sample_rate,
            n_fft=config.fft_length,
            hop=config.hop_length,
            n_mels=config.mel_bins,
        )


def encode_prompts(model: ModelInUse, prompts: PromptEncoder, fitted: FittedRequest) -> Work[tuple[Context, Context]]:
    """Positive and negative context; where no pass asks for the negative one, the positive stands in."""
    guided = Pass.NEGATIVE in passes_of(fitted.video.guidance)
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


def painter_of(pictures: Mapping[int, Sequence[HeldPicture]], shown: Sequence[FittedPicture]) -> Painter | None:
    """What previews are painted with: it follows from the pictures' latents and pixels."""
    pairs = [
        (held.latent, picture.pixels[scale])
        for scale, latents in pictures.items()
        for held, picture in zip(latents, shown, strict=True)
    ]
    return Painter.fitted(pairs)


def denoise_stage(
    model: ModelInUse,
    transformer: LoadedTransformer,
    stage: Stage,
    shape: VideoShape,
    conditions: Conditions,
    initial: Tensor | None,
    noise: torch.Generator | None,
    painter: Painter | None = None,
) -> Work[Tensor]:
    """-> latent [1, C, F, H, W]; begins from the `initial` one, or where there is none from noise alone."""
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
    latent = yield from run_steps(model, transformer, StageWork(stage, start, inputs), Previews(painter, grid))
    check_finite(latent, stage.name)
    return grid.unpack(latent[:, : grid.tokens])


def run_steps(
    model: ModelInUse, transformer: LoadedTransformer, work: StageWork, previews: Previews | None = None
) -> Work[Tensor]:
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
        steps = denoise(velocities_of, start, stage.sigmas, guidance)
        for step, (latent, estimate) in enumerate(steps, start=1):  # noqa: B007
            yield from map(Notice, blocks.graphs.take_notices() if blocks.graphs else ())
            yield from previews.after(stage.name, step, estimate) if previews else ()
            yield StepFinished(stage.name, step, stage.steps)
    return latent


def upsample_latent(model: ModelInUse, latent: Tensor) -> Tensor:
    """[1, C, F, H, W] -> [1, C, F, 2H, 2W]."""
    with model.use("upsampler") as upsampler:
        return upsample(upsampler, latent, model.latent_statistics())


def write_video(
    model: ModelInUse,
    fitted: FittedRequest,
    latents: Mapping[str, Tensor],
    clip: AudioClip,
    marks: Marks | None,
) -> Work[None]:
    """Decode the latent and write the video with the original sound; each frame is encoded as soon as it is decoded.

    The latents are saved before the video is renamed to its path: where they cannot be written, no file is left.
    """
    request, video = fitted.request, fitted.video
    left, step = video.num_frames, 0
    with video_writer(fitted, request.output_path, clip, marks) as writer:
        for piece in decode(model, latents["stage_2"]):
            frames = to_host(piece[:, :, :left])
            left, step = max(left - piece.shape[2], 0), step + 1
            del piece  # before the next is made
            writer.write(*frames)
            yield StepFinished("decode", step, decode_steps(model, fitted.shape))
        if request.save_latents:
            shown = video.grid(1).frames  # without those of guard frames
            cut = {name: latent[:, :, :shown].float().cpu().contiguous() for name, latent in latents.items()}
            write_whole(request.save_latents, save(cut))


def write_window(
    model: ModelInUse,
    fitted: FittedRequest,
    window: Window,
    latent: Tensor,
    before: HandedOn | None,
    work: WorkDir,
) -> Work[HandedOn]:
    """Decode the latent and write the window's frames, of which the first are faded into from those handed on."""
    video = fitted.video
    with on_host():
        colours = before.colours if before else statistics_of(latent.cpu())
        coloured = with_colours(latent.cpu(), colours, COLOURS_HELD) if before else latent
    latent = coloured.to(latent)
    del coloured
    steps, step = decode_steps(model, shape_of_window(video, window)), 0
    cut, kept = Cut(window), list[Tensor]()
    with video_writer(fitted, work.segment(window), audio=None, marks=None) as writer:
        for piece in decode(model, latent):
            fading, faded, plain, handed = cut.parts(piece)
            if before is not None and fading:
                old = before.frames[fading.start : fading.stop]
                writer.write(cut.fade(fading, old, to_rgb(faded.cpu())))
            if handed.shape[2]:
                kept.append(to_rgb(handed.cpu()))
            frames = to_host(plain)
            del piece, faded, plain, handed  # before the next is made
            writer.write(*frames)
            step += 1
            yield StepFinished("decode", step, steps)
    return HandedOn(torch.cat(kept) if kept else torch.empty(0, dtype=torch.uint8), colours)


def write_repaired(
    model: ModelInUse, fitted: FittedRequest, repair: Repair, latent: Tensor, marks: Marks | None
) -> Work[None]:
    """Decode the latent and write the whole source with the new frames in place of the changed ones, faded at both
    ends. The sound is the request's, whole."""
    request, video = fitted.request, fitted.video
    made = list[Tensor]()
    for piece in decode(model, latent):
        with on_host():
            made.append(to_yuv420p(piece.cpu()))
        del piece  # before the next is made
        yield StepFinished("decode", len(made), decode_steps(model, video))
    frames = torch.cat(made)
    start = request.audio_start_time - repair.start / video.frame_rate
    sound = load_audio(request.audio, max(start, 0.0), repair.frames / video.frame_rate)
    with video_writer(fitted, request.output_path, sound, marks) as writer:
        for index, planes in enumerate(each_planes(repair.source)):
            shown = torch.from_numpy(planes)
            if (share := repair.share_of_new(index)) > 0:
                shown = torch.lerp(shown.float(), frames[index - repair.start].float(), share).round().to(torch.uint8)
            writer.write(shown[None])


def video_writer(fitted: FittedRequest, path: Path, audio: AudioClip | None, marks: Marks | None) -> VideoWriter:
    """For frames of the request's size and rate, which get its visible label."""
    video = fitted.video
    label = label_of(fitted.request.visible_label, video.width, video.height)
    return VideoWriter(path, video.width, video.height, video.frame_rate, audio, label, marks)


def decode(model: ModelInUse, latent: Tensor) -> Iterator[Tensor]:
    """[1, C, F, H, W] -> frames [1, 3, n, 32H, 32W] in [-1, 1], first to last. On a GPU they may still be computing."""
    with model.use("video_decoder") as decoder:
        yield from video_vae.decode_pieces(decoder, latent, model.config.version.tiling)


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
