"""Audio-to-video with LTX-2.3, top to bottom.

The method is the reference's two-stage one (`A2VidPipelineTwoStage`): denoise at half size with guidance, upsample the
latent, refine at full size with the distilled LoRA, decode. The audio conditions every step and is never changed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from ltx_a2v import kernels
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, passes_of
from ltx_a2v.diffusion.latents import StageLatent, start_stage
from ltx_a2v.diffusion.sampler import denoise
from ltx_a2v.diffusion.schedule import STAGE_2_SIGMAS, stage_1_sigmas, stage_2_sigmas
from ltx_a2v.errors import BudgetTooSmall, InvalidInput, InvalidRequest, NotFinite, OutOfMemory
from ltx_a2v.events import Done, Event, GenerationResult, Notice, Phase, StepFinished
from ltx_a2v.hardware.budget import Budget, capped, gib, memory_holders
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing, write_whole
from ltx_a2v.media.picture import decode_image, fit_image
from ltx_a2v.media.sound import AudioClip, audio_seconds, load_audio, log_mel, resample
from ltx_a2v.media.video import VideoWriter, check_output
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Networks
from ltx_a2v.networks import audio_vae, video_vae
from ltx_a2v.networks.text import Context
from ltx_a2v.networks.upsampler import upsample
from ltx_a2v.networks.video_vae import Tiling
from ltx_a2v.phases import GIB, PhaseLog, Work
from ltx_a2v.planning.needs import Shape
from ltx_a2v.planning.plan import Keep, Plan
from ltx_a2v.planning.prediction import Prediction
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.request import GenerationRequest, Guidance, fit_num_frames
from ltx_a2v.residency.ledger import Ledger, on_host
from ltx_a2v.residency.network import Loaded, sweep_together
from ltx_a2v.settings.loading import LoadOptions

USUAL_FRAMES = 97
"""Of a request that is prepared for before it is known: four seconds."""


@dataclass(frozen=True)
class _Fitted:
    """The request with everything decided that depends on its files and on the model."""

    request: GenerationRequest
    num_frames: int
    guidance: Guidance
    pictures: Mapping[int, Tensor] = field(default_factory=dict)
    """The picture [1, 3, 1, H, W] at size / 2 and size / 1; empty without one."""

    @property
    def seconds(self) -> float:
        return self.num_frames / self.request.frame_rate

    @property
    def shape(self) -> Shape:
        request = self.request
        return Shape(
            request.width,
            request.height,
            self.num_frames,
            request.frame_rate,
            self.guidance,
            request.image is not None,
        )


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
        self._prompts = PromptEncoder(networks)
        self._config = networks.files.config
        self._device = networks.device
        self._dtype = networks.dtype
        self._options = networks.options
        self.keep: Keep = networks.options.keep
        """Where weights may stay between requests; may be changed between two of them."""

    @classmethod
    def open(
        cls,
        paths: ModelPaths,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        options: LoadOptions | None = None,
    ) -> A2VPipeline:
        """`device`: a GPU where there is one; `dtype`: bfloat16 on a GPU, float32 on the CPU.

        Raises `InvalidModel` for files that are wrong or do not belong together, `InvalidMode` for a quantization that
        they or the device cannot have, `InvalidInput` for a device that is not there or a dtype it does not compute in.
        """
        chosen = choose_device(device)
        if dtype not in (None, torch.bfloat16, torch.float32):
            raise InvalidInput(f"dtype {dtype!r} is not supported; use torch.bfloat16 or torch.float32.")
        default = torch.bfloat16 if chosen.type == "cuda" else torch.float32
        return cls(Networks(ModelFiles.open(paths), chosen, dtype or default, options))

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def model_version(self) -> str:
        return self._config.version

    def run(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end and return the result; errors as of `generate`."""
        for event in self.generate(request):
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a generation ends with Done")

    def plan(self, request: GenerationRequest) -> Plan:
        """What will be where while this request is made, and the peaks that follow; loads nothing.

        Raises `BudgetTooSmall`, naming the smallest budget that would do, and what `generate` raises for the request.
        """
        return self._plan(self._fit(request), self._options.budget)

    def plan_for(self, request: GenerationRequest, budget: Budget) -> Plan:
        """The plan for a size, number of frames and guidance, within another budget; looks at no input file."""
        return self._plan(self._sized(request, int(request.num_frames)), budget)

    def measure(self, request: GenerationRequest) -> Speeds:
        """How fast this machine reads, copies and computes what such a request needs: takes seconds."""
        return self._networks.probe(self._sized(request, int(request.num_frames)).shape)

    def predict(self, request: GenerationRequest, plan: Plan, speeds: Speeds) -> Prediction:
        """How long the request would take within `plan`, with prompts that are not yet known."""
        guidance = self._sized(request, int(request.num_frames)).guidance
        texts = 1 + (Pass.NEGATIVE in passes_of(guidance))
        return self._networks.predict(plan, speeds, request.num_inference_steps, texts)

    @torch.inference_mode()
    def prepare(self, request: GenerationRequest | None = None) -> Plan:
        """Bring the weights to where the plan for such requests, or for ones of the default size, keeps them."""
        usual = GenerationRequest(prompt="", audio=Path(), num_frames=USUAL_FRAMES)
        plan = self.plan(request) if request else self.plan_for(usual, self._options.budget)
        self._networks.placements = plan.placements
        self._networks.preload()
        return plan

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Give the device's memory back; with "nothing", the host's as well."""
        self._networks.release(to)

    @torch.inference_mode()
    def generate(self, request: GenerationRequest) -> Generator[Event]:
        """Make the video, saying what happens; the last event is `Done`.

        Closing the iterator stops the work and leaves no partial file. Raises `InvalidInput` (and below) and
        `BudgetTooSmall` before any weights are read where the request, its files or the budget are wrong, and
        `OutOfMemory` when the device could not hold the work, nor a smaller plan for it.
        """
        with _host_memory():
            yield from self._generate_within_memory(request)

    def _generate_within_memory(self, request: GenerationRequest) -> Iterator[Event]:
        """With a smaller plan where the device could not hold the first."""
        fitted = self._fit(request)
        plan = self._plan(fitted, self._options.budget)
        yield from map(Notice, plan.notes)
        try:
            yield from self._attempt(fitted, plan, plan.budget)
            return
        except torch.OutOfMemoryError:
            self.release("host")  # what the failed attempt held goes with its traceback
        try:
            smaller = self._smaller_plan(fitted, plan)
            yield Notice(f"{self._device} ran out of memory; trying again within {gib(smaller.budget or 0)}.")
            yield from self._attempt(fitted, smaller, plan.budget)
        except (torch.OutOfMemoryError, BudgetTooSmall) as error:
            self.release()
            holders = memory_holders(self._device)
            raise OutOfMemory(
                f"{self._device} ran out of memory, also with a smaller plan{f' ({holders})' if holders else ''}; "
                "free some, or reduce --width, --height or --num-frames."
            ) from error

    def _plan(self, fitted: _Fitted, budget: Budget) -> Plan:
        return self._networks.plan(fitted.shape, budget.resolve(self._device, self._reserved()), self.keep)

    def _smaller_plan(self, fitted: _Fitted, failed: Plan) -> Plan:
        """For what is free now, with twice the headroom, and in any case less than what failed: by a tenth where that
        can be had."""
        roomy = Budget("auto", headroom=2 * self._options.budget.headroom).resolve(self._device, self._reserved())
        less = max(int(0.9 * (failed.budget or failed.peak)), failed.smallest)
        return self._networks.plan(fitted.shape, less if roomy is None else min(less, roomy), self.keep)

    def _reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def _attempt(self, fitted: _Fitted, plan: Plan, limit: int | None) -> Iterator[Event]:
        """Within `limit` bytes of the device. On a CPU, a ledger stands in for it and keeps the limit."""
        self._networks.placements = plan.placements
        ledger = Ledger(limit) if self._device.type == "cpu" and limit is not None else None
        events = self._generate(fitted, plan, PhaseLog(self._device, ledger))
        with capped(self._device, limit):
            yield from events if ledger is None else ledger.during(events)

    def _generate(self, fitted: _Fitted, plan: Plan, log: PhaseLog) -> Iterator[Event]:
        request = fitted.request
        generator = torch.Generator(self._device).manual_seed(request.seed)
        if self._device.type == "cuda" and (reason := kernels.problem(self._device)):
            yield Notice(f"Steps take longer without the fused kernels, which cannot be used: {reason}.")

        clip = yield from log.phase("load_audio", lambda: self._load_audio(fitted))
        positive, negative = yield from log.phase("encode_prompt", lambda: self._encode_prompts(fitted))
        audio = yield from log.phase("encode_audio", lambda: self._encode_audio(fitted, clip))
        pictures = yield from log.phase("encode_image", lambda: self._encode_image(fitted))
        conditions = _Conditions(positive, negative, audio, pictures)

        with ExitStack() as stack:
            take = lambda: stack.enter_context(self._networks.transformer())  # noqa: E731
            transformer = yield from log.phase("load_transformer", take)
            start = self._start(fitted, conditions, 2, None, generator)
            stage_1 = yield from log.phase(
                "stage_1",
                lambda: self._denoise("stage_1", transformer, fitted, conditions, start, fitted.guidance),
                steps=request.num_inference_steps,
            )
            upsampled = yield from log.phase("upsample", lambda: self._upsample(stage_1))
            refine = self._start(fitted, conditions, 1, upsampled, generator)
            stage_2 = yield from log.phase(
                "stage_2",
                lambda: self._denoise("stage_2", transformer, fitted, conditions, refine, UNGUIDED),
                steps=len(STAGE_2_SIGMAS) - 1,
            )

        latents = {"stage_1": stage_1, "stage_2": stage_2}
        yield from log.phase("decode", lambda: self._decode(fitted, latents, clip), steps=_decode_steps(stage_2))
        yield Done(self._result(fitted, plan, log))

    def _fit(self, request: GenerationRequest) -> _Fitted:
        """Decide the number of frames and the perturbed blocks; refuse what cannot work before anything is loaded."""
        check_output(request.output_path)
        if request.save_latents:
            check_output_file(request.save_latents, None, "latents.safetensors")
        check_overwrites_nothing(
            {"--output-path": request.output_path, "--save-latents": request.save_latents},
            [("--image", request.image), ("--audio", request.audio), *self._networks.files.paths.by_flag()]
            + [("--lora", lora.path) for lora in self._options.loras],
        )
        num_frames = request.num_frames
        if num_frames == "auto":
            num_frames = fit_num_frames(audio_seconds(request.audio, request.audio_start_time), request.frame_rate)
        return replace(self._sized(request, num_frames), pictures=_fit_pictures(request))

    def _sized(self, request: GenerationRequest, num_frames: int) -> _Fitted:
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
        with on_host():
            clip = load_audio(request.audio, request.audio_start_time, fitted.seconds)
        if clip.padded_seconds >= 0.01:
            yield Notice(
                f"The audio is {clip.padded_seconds:.2f} s shorter than the video of {fitted.seconds:.2f} s; "
                "the rest is silence."
            )
        return clip

    def _encode_prompts(self, fitted: _Fitted) -> Work[tuple[Context, Context]]:
        """Positive and negative context; where nothing asks for the negative one, the positive stands in."""
        guided = Pass.NEGATIVE in passes_of(fitted.guidance)
        prompts = [fitted.request.prompt, fitted.request.negative_prompt][: 1 + guided]
        contexts = yield from self._prompts.encode(prompts)
        return contexts[0], contexts[-1]

    def _encode_audio(self, fitted: _Fitted, clip: AudioClip) -> Tensor:
        config = self._config
        with on_host():
            mel = log_mel(
                resample(clip.waveform, clip.sample_rate, config.sample_rate),
                sample_rate=config.sample_rate,
                n_fft=config.fft_length,
                hop=config.hop_length,
                n_mels=config.mel_bins,
            )
        with self._networks.use("audio_encoder") as encoder:
            latent = encoder(mel.to(self._device, self._dtype))
        return audio_vae.pack_audio(audio_vae.fit_length(latent, fitted.shape.audio_tokens))

    def _encode_image(self, fitted: _Fitted) -> dict[int, Tensor]:
        if not fitted.pictures:
            return {}
        with self._networks.use("video_encoder") as encoder:
            return {scale: encoder(picture.to(self._device, self._dtype)) for scale, picture in fitted.pictures.items()}

    def _start(
        self, fitted: _Fitted, conditions: _Conditions, scale: int, latent: Tensor | None, generator: torch.Generator
    ) -> StageLatent:
        """The noised latent of a stage; stage 1 has none to begin with and is noise all over."""
        grid = fitted.shape.grid(scale)
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
        transformer: Loaded,
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
        steps, latent = len(sigmas) - 1, start.noisy
        with self._networks.adapted(transformer, distilled=phase == "stage_2") as adapters:
            forward = StageForward(
                transformer.module,
                inputs,
                passes_of(guidance),
                frozenset(guidance.stg_blocks or ()),
                lambda: sweep_together(transformer, *adapters),
                self._networks.options.exact_passes,
            )
            for loaded in (transformer, *adapters):
                loaded.begin(sweeps=steps)
            for step, latent in enumerate(denoise(forward, start, sigmas, guidance), start=1):  # noqa: B007  the last
                yield StepFinished(phase, step, steps)
        _check_finite(latent, phase)
        return start.grid.unpack(latent)

    def _upsample(self, latent: Tensor) -> Tensor:
        with self._networks.use("upsampler") as network:
            return upsample(network, latent, self._networks.latent_statistics())

    def _decode(self, fitted: _Fitted, latents: Mapping[str, Tensor], clip: AudioClip) -> Work[None]:
        """Frames go to the encoder as they are decoded; the original sound goes with them.

        The latents are saved while the video is not yet in its place: what cannot be written leaves nothing.
        """
        request, latent = fitted.request, latents["stage_2"]
        with (
            self._networks.use("video_decoder") as decoder,
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
            if request.save_latents:
                write_whole(request.save_latents, save({k: t.float().cpu().contiguous() for k, t in latents.items()}))

    def _result(self, fitted: _Fitted, plan: Plan, log: PhaseLog) -> GenerationResult:
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
            details={"memory": _memory_report(plan, log)},
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
    if chosen.type == "cpu" and chosen.index:
        raise InvalidInput(f"--device {device!r} does not exist: there is one CPU; use --device cpu.")
    if chosen.type == "cuda" and (not available or (chosen.index or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} GPUs" if available else "no GPU that PyTorch can use"
        raise InvalidInput(f"--device {device!r} was asked for, but this machine has {found}; use --device cpu.")
    return chosen


def _memory_report(plan: Plan, log: PhaseLog) -> dict[str, dict[str, float]]:
    """GiB per phase: what was predicted, what tensors took at most, and what was reserved for them."""
    predicted: dict[str, int] = {}
    for phase in plan.phases:
        name = "encode_prompt" if phase.name in ("text_encoder", "connectors") else phase.name
        predicted[name] = max(predicted.get(name, 0), phase.peak)
    return {
        name: {"predicted": round(peak / GIB, 3), "allocated": log.peaks[name][0], "reserved": log.peaks[name][1]}
        for name, peak in predicted.items()
    }


def _decode_steps(latent: Tensor) -> int:
    return len(Tiling().temporal(latent.shape[2]))


def _fit_pictures(request: GenerationRequest) -> dict[int, Tensor]:
    if request.image is None:
        return {}
    pixels = decode_image(request.image, request.image_crf)
    return {scale: fit_image(pixels, request.width // scale, request.height // scale) for scale in (2, 1)}


def _check_finite(latent: Tensor, phase: Phase) -> None:
    """Else the video would be black or grey, and nobody would know why."""
    if not latent.isfinite().all():
        raise NotFinite(
            f"{phase} computed values that are no numbers: the weights are damaged, or do not bear the way they are "
            "stored; try --transformer-quantization none, other LoRAs, or download the files again."
        )


@contextmanager
def _host_memory() -> Iterator[None]:
    """What the host's allocators raise becomes `OutOfMemory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(
            "The host's memory is used up; close other programs, or reduce --width, --height or --num-frames."
        ) from error
