"""Audio-to-video with LTX-2.3, top to bottom.

The method is the reference's two-stage one (`A2VidPipelineTwoStage`): denoise at half size with guidance, upsample the
latent, refine at full size with the distilled LoRA, decode. The audio conditions every step and is never changed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx_a2v.checkpoint.model_files import ModelFiles
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, passes_of
from ltx_a2v.diffusion.latents import LatentGrid, StageLatent, start_stage
from ltx_a2v.diffusion.sampler import denoise
from ltx_a2v.diffusion.schedule import STAGE_2_SIGMAS, stage_1_sigmas, stage_2_sigmas
from ltx_a2v.errors import InvalidInput, InvalidOutput, InvalidRequest, OutOfMemory
from ltx_a2v.events import Done, Event, GenerationResult, Notice, Phase, StepFinished
from ltx_a2v.measure import PhaseLog, Work
from ltx_a2v.media.audio import AudioClip, audio_seconds, load_audio, log_mel, resample
from ltx_a2v.media.image import decode_image, fit_image
from ltx_a2v.media.video import VideoWriter, check_output
from ltx_a2v.networks import audio_vae, text, video_vae
from ltx_a2v.networks.library import Networks
from ltx_a2v.networks.text import Context
from ltx_a2v.networks.upsampler import upsample
from ltx_a2v.networks.video_vae import Tiling
from ltx_a2v.request import GenerationRequest, Guidance, fit_num_frames

AUDIO_LATENTS_PER_SECOND = 25


@dataclass(frozen=True)
class _Fitted:
    """The request with everything decided that depends on its files and on the model."""

    request: GenerationRequest
    num_frames: int
    guidance: Guidance

    @property
    def seconds(self) -> float:
        return self.num_frames / self.request.frame_rate

    def grid(self, scale: int) -> LatentGrid:
        return LatentGrid.of_video(self.num_frames, self.request.height // scale, self.request.width // scale)


@dataclass(frozen=True)
class _Conditions:
    """What the video is to follow, encoded."""

    positive: Context
    negative: Context
    audio: Tensor
    """Packed latent, [1, T, 128]."""
    pictures: dict[int, Tensor]
    """The picture's latent [1, 128, 1, H, W] at size / 2 and size / 1; empty without a picture."""


class A2VPipeline:
    """One model, ready to generate. Opening checks every file's header; weights are read when a phase needs them."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._config = networks.files.config
        self._device = networks.device
        self._dtype = networks.dtype

    @classmethod
    def open(
        cls, paths: ModelPaths, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> A2VPipeline:
        """`device`: a GPU where there is one; `dtype`: bfloat16 on a GPU, float32 on the CPU.

        Raises `InvalidModel` for files that are wrong or do not belong together, `InvalidInput` for a device that is
        not there.
        """
        chosen = choose_device(device)
        default = torch.bfloat16 if chosen.type == "cuda" else torch.float32
        return cls(Networks(ModelFiles.open(paths), chosen, dtype or default))

    @property
    def model_version(self) -> str:
        return self._config.version

    def run(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end and return the result; errors as of `generate`."""
        for event in self.generate(request):
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a generation ends with Done")

    @torch.inference_mode()
    def generate(self, request: GenerationRequest) -> Generator[Event]:
        """Make the video, saying what happens; the last event is `Done`.

        Closing the iterator stops the work and leaves no partial file. Raises `InvalidInput` (and below) before any
        weights are read where the request or its files are wrong, `OutOfMemory` when the device cannot hold the work.
        """
        try:
            yield from self._generate(request)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{self._device} ran out of memory; free some, or reduce --width, --height or --num-frames."
            ) from error

    def _generate(self, request: GenerationRequest) -> Iterator[Event]:
        log = PhaseLog(self._device)
        fitted = self._fit(request)
        generator = torch.Generator(self._device).manual_seed(request.seed)

        clip = yield from log.phase("load_audio", lambda: self._load_audio(fitted))
        positive, negative = yield from log.phase("encode_prompt", lambda: self._encode_prompts(fitted))
        audio = yield from log.phase("encode_audio", lambda: self._encode_audio(fitted, clip))
        pictures = yield from log.phase("encode_image", lambda: self._encode_image(fitted))
        conditions = _Conditions(positive, negative, audio, pictures)

        with self._networks.transformer() as transformer:
            start = self._start(fitted, conditions, 2, None, generator)
            stage_1 = yield from log.phase(
                "stage_1",
                lambda: self._denoise("stage_1", transformer, fitted, conditions, start, fitted.guidance),
                steps=request.num_inference_steps,
            )
            upsampled = yield from log.phase("upsample", lambda: self._upsample(stage_1))
            refine = self._start(fitted, conditions, 1, upsampled, generator)
            with self._networks.distilled(transformer):
                stage_2 = yield from log.phase(
                    "stage_2",
                    lambda: self._denoise("stage_2", transformer, fitted, conditions, refine, UNGUIDED),
                    steps=len(STAGE_2_SIGMAS) - 1,
                )

        yield from log.phase("decode", lambda: self._decode(fitted, stage_2, clip), steps=_decode_steps(stage_2))
        if request.save_latents:
            _save_latents(request.save_latents, stage_1, stage_2)
        yield Done(self._result(fitted, log))

    def _fit(self, request: GenerationRequest) -> _Fitted:
        """Decide the number of frames and the perturbed blocks; refuse what cannot work before anything is loaded."""
        check_output(request.output_path)
        if request.save_latents and not request.save_latents.parent.is_dir():
            raise InvalidOutput(f"The folder {request.save_latents.parent} of --save-latents does not exist.")
        num_frames = request.num_frames
        if num_frames == "auto":
            num_frames = fit_num_frames(audio_seconds(request.audio, request.audio_start_time), request.frame_rate)
        guidance = request.guidance
        if guidance.stg_blocks is None:
            blocks = self._config.defaults.stg_blocks(self._config.num_layers)
            guidance = guidance.model_copy(update={"stg_blocks": blocks})
        beyond = [block for block in guidance.stg_blocks or () if block >= self._config.num_layers]
        if beyond:
            raise InvalidRequest(
                f"--video-stg-blocks {beyond[0]}: this model's blocks are 0 to {self._config.num_layers - 1}."
            )
        return _Fitted(request, num_frames, guidance)

    def _load_audio(self, fitted: _Fitted) -> Work[AudioClip]:
        request = fitted.request
        clip = load_audio(request.audio, request.audio_start_time, fitted.seconds)
        if clip.padded_seconds >= 0.01:
            yield Notice(
                f"The audio is {clip.padded_seconds:.2f} s shorter than the video of {fitted.seconds:.2f} s; "
                "the rest is silence."
            )
        return clip

    def _encode_prompts(self, fitted: _Fitted) -> Work[tuple[Context, Context]]:
        """Positive and negative context; where nothing asks for the negative one, the positive stands in."""
        tokenizer = text.load_tokenizer(self._networks.files.gemma)
        guided = Pass.NEGATIVE in passes_of(fitted.guidance)
        prompts = [fitted.request.prompt, fitted.request.negative_prompt][: 1 + guided]
        tokens = [text.tokenize(tokenizer, prompt) for prompt in prompts]
        for prompt, encoded in zip(prompts, tokens, strict=True):
            if encoded.truncated:
                yield Notice(f"The prompt that begins {prompt[:30]!r} is cut to {text.MAX_TOKENS} tokens.")
        with self._networks.text_encoder() as gemma:
            hidden = [text.encode_text(gemma, encoded) for encoded in tokens]
        with self._networks.connectors() as connectors:
            contexts = [text.connect(connectors, h, encoded.mask) for h, encoded in zip(hidden, tokens, strict=True)]
        return contexts[0], contexts[-1]

    def _encode_audio(self, fitted: _Fitted, clip: AudioClip) -> Work[Tensor]:
        config = self._config
        mel = log_mel(
            resample(clip.waveform, clip.sample_rate, config.sample_rate),
            sample_rate=config.sample_rate,
            n_fft=config.fft_length,
            hop=config.hop_length,
            n_mels=config.mel_bins,
        )
        with self._networks.audio_encoder() as encoder:
            latent = encoder(mel.to(self._device, self._dtype))
        return audio_vae.pack_audio(audio_vae.fit_length(latent, round(AUDIO_LATENTS_PER_SECOND * fitted.seconds)))
        yield  # a phase is a generator, also where it has nothing to say

    def _encode_image(self, fitted: _Fitted) -> Work[dict[int, Tensor]]:
        request = fitted.request
        if request.image is None:
            return {}
        pixels = decode_image(request.image, request.image_crf)
        with self._networks.video_encoder() as encoder:
            return {
                scale: encoder(
                    fit_image(pixels, request.width // scale, request.height // scale).to(self._device, self._dtype)
                )
                for scale in (2, 1)
            }
        yield

    def _start(
        self, fitted: _Fitted, conditions: _Conditions, scale: int, latent: Tensor | None, generator: torch.Generator
    ) -> StageLatent:
        """The noised latent of a stage; stage 1 has none to begin with and is noise all over."""
        grid = fitted.grid(scale)
        empty = torch.zeros(1, 128, grid.frames, grid.height, grid.width, device=self._device, dtype=self._dtype)
        return start_stage(
            grid,
            empty if latent is None else latent,
            conditions.pictures.get(scale),
            fitted.request.image_strength,
            1.0 if latent is None else STAGE_2_SIGMAS[0],
            generator,
            conditions.audio,
        )

    def _denoise(
        self,
        phase: Phase,
        transformer: Any,
        fitted: _Fitted,
        conditions: _Conditions,
        start: StageLatent,
        guidance: Guidance,
    ) -> Work[Tensor]:
        """-> latent [1, 128, F, H, W]."""
        sigmas = stage_1_sigmas(fitted.request.num_inference_steps) if phase == "stage_1" else stage_2_sigmas()
        inputs = StageInputs(
            grid=start.grid,
            frame_rate=fitted.request.frame_rate,
            mask=start.mask,
            audio_tokens=conditions.audio,
            positive_text=conditions.positive.video,
            negative_text=conditions.negative.video,
            audio_text=conditions.positive.audio,
        )
        forward = StageForward(transformer, inputs, passes_of(guidance), frozenset(guidance.stg_blocks or ()))
        latent = start.noisy
        for step, latent in enumerate(denoise(forward, start, sigmas, guidance), start=1):  # noqa: B007  the last one
            yield StepFinished(phase, step, len(sigmas) - 1)
        return start.grid.unpack(latent)

    def _upsample(self, latent: Tensor) -> Work[Tensor]:
        with self._networks.upsampler() as network:
            return upsample(network, latent, self._networks.latent_statistics())
        yield

    def _decode(self, fitted: _Fitted, latent: Tensor, clip: AudioClip) -> Work[None]:
        """Frames go to the encoder as they are decoded; the original sound goes with them."""
        request = fitted.request
        with (
            self._networks.video_decoder() as decoder,
            VideoWriter(
                request.output_path,
                width=request.width,
                height=request.height,
                frame_rate=request.frame_rate,
                audio=clip,
            ) as writer,
        ):
            for step, frames in enumerate(video_vae.decode_frames(decoder, latent, Tiling()), start=1):
                writer.write(frames)
                yield StepFinished("decode", step, _decode_steps(latent))

    def _result(self, fitted: _Fitted, log: PhaseLog) -> GenerationResult:
        request = fitted.request
        return GenerationResult(
            output_path=request.output_path,
            width=request.width,
            height=request.height,
            num_frames=fitted.num_frames,
            frame_rate=request.frame_rate,
            seed=request.seed,
            elapsed_seconds=round(log.elapsed, 3),
            peak_vram_gib=log.peak_gib,
            phases=log.seconds,
            model_version=self.model_version,
            notices=tuple(log.notices),
        )


def choose_device(device: str | torch.device | None) -> torch.device:
    """Raises `InvalidInput` when the device does not exist here."""
    available = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if available else "cpu"))
    except RuntimeError:
        raise InvalidInput(f"--device {device!r} is no device; use cuda, cuda:1 or cpu.") from None
    if chosen.type not in ("cuda", "cpu"):
        raise InvalidInput(f"--device {device!r} is not supported; use cuda or cpu.")
    if chosen.type == "cuda" and (not available or (chosen.index or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} GPUs" if available else "no GPU that PyTorch can use"
        raise InvalidInput(f"--device {device!r} was asked for, but this machine has {found}; use --device cpu.")
    return chosen


def _decode_steps(latent: Tensor) -> int:
    return len(Tiling().temporal(latent.shape[2]))


def _save_latents(path: Path, stage_1: Tensor, stage_2: Tensor) -> None:
    part = path.with_name(path.name + ".part")
    save_file({"stage_1": stage_1.float().cpu().contiguous(), "stage_2": stage_2.float().cpu().contiguous()}, part)
    part.replace(path)
