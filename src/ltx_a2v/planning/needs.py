"""Measures the device memory of each phase, weights excluded.

Each phase of the method runs once on `meta`, with the functions that generate a video, while a ledger counts live
tensors. Only Gemma's memory is estimated: its masks depend on values, which `meta` does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import astuple, replace

import torch
from torch import Tensor

from ltx_a2v import pipeline as method
from ltx_a2v.diffusion.graphs import BlockGraphs
from ltx_a2v.diffusion.guidance import UNGUIDED
from ltx_a2v.diffusion.latents import HeldPicture
from ltx_a2v.fitting import FittedPicture, VideoShape
from ltx_a2v.media.frames import to_host
from ltx_a2v.model.adapters import DISTILLED_LORA
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Model
from ltx_a2v.networks import text
from ltx_a2v.networks.text import Context
from ltx_a2v.phases import Work
from ltx_a2v.pipeline import Conditions, Stage
from ltx_a2v.planning.meta_model import META, MetaCapturer, MetaModel
from ltx_a2v.planning.plan import GraphsNeed, PhaseNeed
from ltx_a2v.prompts.encoder import run_connectors
from ltx_a2v.residency.ledger import Ledger

SAMPLED_BLOCKS = 3
"""Every block takes and frees the same memory, except for the keys and values of the audio's text, which stay."""
TWO_STEPS = torch.tensor([1.0, 0.5, 0.25])
"""Sigmas of two steps: from the second on, the latent of the step before is alive too."""
FEW_NUMBERS = 2**14
"""Bytes allowed for sigmas, weights of blending and other tensors of a few numbers, which phases make as they go."""
WORKSPACES = 128 * 2**20
"""Bytes allowed for the workspaces of cuBLAS and cuDNN on a GPU; on an H100 they kept 33 MiB between phases. The stream
on which graphs are captured has one more of cuBLAS, as large."""
EXCHANGE = 128 * 2**20
"""Bytes allowed for NCCL's connection with the other processes of a clip: one channel, unmeasured."""
CONVOLUTION_WORKSPACE = 820 * 2**20
"""Bytes allowed for cuDNN while decoding, in addition: in contiguous memory an H100 took 0.78 GiB more than predicted
at 768x512; channels last, as now, 0.44. At 1280x768 it is unmeasured. Only computing shows what cuDNN takes, and a plan
computes nothing."""


@torch.inference_mode()
def measure_needs(model: Model, shape: VideoShape) -> list[PhaseNeed]:
    """The phases in order, for a request of that shape."""
    on_gpu = model.device.type == "cuda"
    phases = _MetaPhases(model, _on_meta(model, shape), shape)
    common = _kept_between_phases(model, shape) + FEW_NUMBERS + (WORKSPACES if on_gpu else 0)
    common += EXCHANGE if on_gpu and model.sharing is not None else 0
    styles = model.style_loras
    distilled = tuple(name for name in (DISTILLED_LORA,) if name in model.loaders)
    both_stages = (*distilled, *styles) if shape.quality == "fast" else ()

    def need(name: str, networks: tuple[str, ...], run: Callable[[], object], more: int = 0) -> PhaseNeed:
        return PhaseNeed(name, networks, _peak_of(run) + common + more)

    def stage(name: str, networks: tuple[str, ...], run: Callable[[], object]) -> PhaseNeed:
        plain = need(name, networks, run, cache)
        return replace(plain, graphs=_graphs_need(model, shape, name, plain.activations - common - cache, cache))

    cache = _audio_text_cache(model)
    gemma = PhaseNeed("text_encoder", ("text_encoder",), _gemma_activations(model.files, model.dtype))
    return [
        replace(gemma, activations=gemma.activations + (WORKSPACES if on_gpu else 0)),
        need("connectors", ("connectors",), phases.connect),
        need("encode_audio", ("audio_encoder",), phases.encode_sound),
        need("encode_image", ("video_encoder",), phases.encode_pictures),
        stage("stage_1", ("transformer", *(both_stages or styles)), phases.stage_1),
        need("upsample", ("transformer", *both_stages, "upsampler"), phases.upsample),
        stage("stage_2", ("transformer", *distilled, *styles), phases.stage_2),
        need("decode", ("video_decoder",), phases.decode, CONVOLUTION_WORKSPACE if on_gpu else 0),
    ]


def _graphs_need(model: Model, shape: VideoShape, stage: str, without: int, cache: int) -> GraphsNeed:
    """What a stage needs more with CUDA graphs than the peak `without`, and what they keep, the `cache` included."""
    if model.graphs is None:
        return GraphsNeed()
    graphs = BlockGraphs(MetaCapturer())
    phases = _MetaPhases(model, _on_meta(model, shape, graphs), shape)
    peak = _peak_of(getattr(phases, stage))
    return GraphsNeed(max(peak - without, 0), graphs.nbytes + cache)


def _on_meta(model: Model, shape: VideoShape, graphs: BlockGraphs | None = None) -> MetaModel:
    return MetaModel(model, SAMPLED_BLOCKS, graphs, frozenset(shape.guidance.stg_blocks or ()))


def _peak_of(run: Callable[[], object]) -> int:
    with Ledger() as ledger:
        made = run()
        if isinstance(made, Generator):
            made = _finished(made)
        elif isinstance(made, Iterable) and not isinstance(made, Tensor):
            for piece in made:
                del piece
    del made
    return ledger.peak


def _finished(work: Work[object]) -> object:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


class _MetaPhases:
    """The method's phases on `meta`. Their inputs are made here, outside of the ledger; `_kept_between_phases` counts
    them."""

    def __init__(self, model: Model, in_use: MetaModel, shape: VideoShape) -> None:
        self._files = model.files
        version = model.config.version
        self._tokens, channels = version.text_encoder.tokens, version.latents.channels
        self._shape = shape
        self._model = in_use
        self._half, self._full = (self._empty(1, channels, *astuple(shape.grid(scale))) for scale in (2, 1))
        video, audio = model.config.widths
        context = Context(self._empty(1, self._tokens, video), self._empty(1, self._tokens, audio))
        sound = self._empty(1, shape.audio_tokens, version.latents.audio_channels)
        pictures = {scale: self._held_pictures(channels, scale) for scale in (2, 1)}
        self._conditions = Conditions(context, context, sound, pictures)

    def connect(self) -> object:
        """The connectors for one prompt, while the hidden states of the other are kept."""
        states = text.hidden_state_count(self._files.gemma)
        hidden = self._empty(1, self._tokens, self._files.gemma.config["hidden_size"], states)
        mask = torch.ones(1, self._tokens, device=META, dtype=torch.int64)
        others = torch.empty_like(hidden)
        return others, run_connectors(self._model, [hidden], [mask])

    def encode_sound(self) -> object:
        config = self._model.config
        samples = math.ceil(self._shape.seconds * config.sample_rate)
        mel_frames = -(-samples // config.hop_length) + 1
        mel = self._empty(1, 2, mel_frames, config.mel_bins)
        return method.encode_sound(self._model, mel, self._shape.audio_tokens)

    def encode_pictures(self) -> object:
        shape = self._shape
        shown = [(frame, 1) for frame in shape.pictures] + [(0, shape.overlap)] * bool(shape.overlap)
        return method.encode_pictures(self._model, [FittedPicture(at, 1.0, self._pixels(n)) for at, n in shown])

    def stage_1(self) -> object:
        perturbed = (1,) if self._shape.guidance.stg_blocks else ()
        guidance = self._shape.guidance.model_copy(update={"stg_blocks": perturbed, "skip_step": 0})
        return self._denoise(Stage("stage_1", 2, TWO_STEPS, 1.0, guidance, self._shape.quality == "fast"), None)

    def upsample(self) -> object:
        return method.upsample_latent(self._model, self._half)

    def stage_2(self) -> object:
        stage = Stage("stage_2", 1, TWO_STEPS, 1.0, UNGUIDED, distilled=True)
        return self._denoise(stage, self._full)

    def decode(self) -> Iterator[object]:
        for piece in method.decode(self._model, self._full):
            frames = to_host(piece)
            del piece  # before the next is made
            yield frames

    def _denoise(self, stage: Stage, initial: Tensor | None) -> Work[Tensor]:
        with self._model.transformer(stage.distilled) as transformer:
            return method.denoise_stage(self._model, transformer, stage, self._shape, self._conditions, initial, None)

    def _held_pictures(self, channels: int, scale: int) -> list[HeldPicture]:
        grid, overlap = self._shape.grid(scale), self._shape.overlap
        shown = [(frame, 1) for frame in self._shape.pictures] + [(0, overlap)] * bool(overlap)
        factor = self._shape.latents.temporal_factor
        return [
            HeldPicture(self._empty(1, channels, (frames - 1) // factor + 1, grid.height, grid.width), at, 1.0)
            for at, frames in shown
        ]

    def _pixels(self, frames: int) -> dict[int, Tensor]:
        height, width = self._shape.height, self._shape.width
        return {scale: self._empty(1, 3, frames, height // scale, width // scale) for scale in (2, 1)}

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._model.dtype, device=META)


def _kept_between_phases(model: Model, shape: VideoShape) -> int:
    """Bytes of the tensors that phases pass on: both contexts, the sound, the pictures and the result of either
    stage, and the upsampled latent."""
    contexts = 2 * model.config.version.text_encoder.tokens * sum(model.config.widths)
    half, full = shape.grid(2), shape.grid(1)
    sound = shape.latents.audio_channels * shape.audio_tokens
    held = len(shape.pictures) + ((shape.overlap - 1) // shape.latents.temporal_factor + 1 if shape.overlap else 0)
    pictures = held * (half.frame_tokens + full.frame_tokens)
    video = shape.latents.channels * (pictures + half.tokens + 2 * full.tokens)
    return (contexts + sound + video) * model.dtype.itemsize


def _audio_text_cache(model: Model) -> int:
    """Bytes of the keys and values of the audio's text, kept for every block that is not sampled."""
    blocks = max(model.config.num_layers - SAMPLED_BLOCKS, 0)
    return blocks * 2 * model.config.version.text_encoder.tokens * model.config.widths[1] * model.dtype.itemsize


def _gemma_activations(files: ModelFiles, dtype: torch.dtype) -> int:
    """Estimated bytes: all hidden states of both prompts, and the widest layer, the MLP, for one of them."""
    config, tokens = files.gemma.config, files.config.version.text_encoder.tokens
    hidden = tokens * config["hidden_size"] * dtype.itemsize
    states = 2 * text.hidden_state_count(files.gemma) * hidden
    mlp = 4 * tokens * config["intermediate_size"] * dtype.itemsize
    masks = 2 * 2 * 4 * tokens**2
    return int(states + mlp + masks + 2 * 6 * hidden)
