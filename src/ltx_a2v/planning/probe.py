"""Measures the speed of this machine: reads, copies and computes one block of the real shapes as a generation does.

This takes seconds, and the memory of one block, of the weights outside the blocks, and of one step. Where a step of one
block is slow, as on a CPU, fewer latent frames are computed and the time is extrapolated.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.graphs import BlockGraphs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, passes_of
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.fitting import VideoShape
from ltx_a2v.hardware.streams import wait
from ltx_a2v.media.frames import to_host
from ltx_a2v.model.adapters import DISTILLED_LORA
from ltx_a2v.networks import text
from ltx_a2v.networks.text import Tokens
from ltx_a2v.networks.tiling import spatial_spans, temporal_spans
from ltx_a2v.networks.video_vae import decode_pieces
from ltx_a2v.request import Guidance
from ltx_a2v.residency.host_copies import PREPARING_THREADS, HostBuffer
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.stream import Place
from ltx_a2v.versions import ModelConfig

BLOCKS = 4
"""Visits of the sampled block: two before the perturbed pass splits off, one where it does, and one after."""
PERTURBED = 2
LIMIT = 3.0
"""Seconds above which a step of the sampled blocks is measured on fewer latent frames."""
QUICK = 0.5
"""Seconds below which a measurement is repeated, so that start-up costs do not dominate it."""
COPIES = 4


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of one step, by part."""

    around: float
    """Outside the blocks."""
    before: float
    """One block before the perturbed pass splits off."""
    perturbed: float
    """One block where it is perturbed."""
    after: float
    """One block after that."""

    def step(self, num_blocks: int, perturbed: frozenset[int]) -> float:
        first = min(perturbed, default=num_blocks)
        blocks = (
            self.perturbed if i in perturbed else self.before if i < first else self.after for i in range(num_blocks)
        )
        return self.around + sum(blocks)


@dataclass(frozen=True)
class Speeds:
    """Measured speeds of this machine, in bytes and seconds."""

    read: float
    """Bytes of the checkpoint per second: read, converted and brought to the device."""
    copy: float
    """Bytes per second from host memory to the device."""
    step_1: float
    step_2: float
    """Seconds of computation per step of each stage, scaled from one block."""
    decode: float
    """Seconds of decoding, scaled from a piece of the video."""
    per_parameter: float
    """Seconds of the transformer per parameter and token, from which the connectors are estimated."""
    overlaps: bool
    """Copies overlap with computing."""
    extrapolated: bool
    """Steps were measured on fewer latent frames than they have."""
    reading: Mapping[str, float] = field(default_factory=dict)
    """Seconds to read a whole network, scaled from one block and the weights outside the blocks; others are read at
    `read`."""
    text: float | None = None
    """Seconds of the text encoder per prompt, scaled from one layer; None: estimated as the connectors are."""
    encoders: tuple[float, float] = (0.0, 0.0)
    """Seconds of encoding the sound and the picture."""
    prepare: float = math.inf
    """Bytes per second of host memory that are made ready for copies of weights."""


@torch.inference_mode()
def probe(
    loaders: Mapping[str, TensorLoader],
    config: ModelConfig,
    shape: VideoShape,
    device: torch.device,
    dtype: torch.dtype,
    graphs: BlockGraphs | None = None,
) -> Speeds:
    """Measure on `device`, with `graphs` as in a generation. Raises the errors of reading and computing."""
    with ExitStack() as stack:
        denoiser = stack.enter_context(_Sample(loaders["transformer"], device))
        styles = [
            stack.enter_context(_Sample(loader, device)) for name, loader in loaders.items() if name.startswith("lora ")
        ]
        for style in styles:
            stack.enter_context(style.module.attached(denoiser.module))
        reading = {"transformer": denoiser.seconds_of_all}

        def attach_distilled() -> None:
            if DISTILLED_LORA in loaders:
                distilled = stack.enter_context(_Sample(loaders[DISTILLED_LORA], device))
                stack.enter_context(distilled.module.attached(denoiser.module))
                reading[DISTILLED_LORA] = distilled.seconds_of_all

        if shape.quality == "fast":
            attach_distilled()
        stage_1, whole_1 = _time_stage(denoiser, config, shape, 2, shape.guidance, device, dtype, graphs)
        if shape.quality == "standard":
            attach_distilled()
        stage_2, whole_2 = _time_stage(denoiser, config, shape, 1, UNGUIDED, device, dtype, graphs)
        read, (copy, prepare) = denoiser.read, denoiser.host_speeds()
        block_parameters = denoiser.block_parameters
    perturbed = frozenset(shape.guidance.stg_blocks or ()) if Pass.PERTURBED in passes_of(shape.guidance) else ()
    tokens = shape.grid(1).tokens
    with _Sample(loaders["connectors"], device) as connectors:
        reading["connectors"] = connectors.seconds_of_all
    with _Sample(loaders["text_encoder"], device) as encoder:
        reading["text_encoder"] = encoder.seconds_of_all
        prompt = _time_text(encoder, config.version.text_encoder.tokens, device, dtype)
    return Speeds(
        read=read,
        copy=copy,
        step_1=stage_1.step(config.num_layers, frozenset(perturbed)),
        step_2=stage_2.step(config.num_layers, frozenset()),
        decode=_time_decode(loaders["video_decoder"], config, shape, device, dtype),
        per_parameter=stage_2.before / (block_parameters * tokens),
        overlaps=device.type == "cuda",
        extrapolated=not (whole_1 and whole_2),
        reading=reading,
        text=prompt,
        encoders=_time_encoders(loaders, config, shape, device, dtype),
        prepare=prepare,
    )


class _Sample:
    """A network with one of its blocks, and the weights outside the blocks, on the device."""

    def __init__(self, loader: TensorLoader, device: torch.device) -> None:
        self.module: Any = loader.build()
        self._loader = loader
        self._device = device
        self._entries = loader.blueprint.entries
        rest, blocks = loader.blueprint.split(self.module)
        by_size = sorted(blocks, key=lambda block: block.nbytes)
        sampled = by_size[len(blocks) // 2 : len(blocks) // 2 + 1]
        self.block: Any = self.module.get_submodule(sampled[0].name) if sampled else None
        self.block_parameters = sum(math.prod(self._entries[name].shape) for block in sampled for name in block.sources)
        self._pieces = [*sampled, rest]
        self._slots: list[Tensor] = []
        self._blocks = blocks
        self.read = 0.0
        """Bytes of the file per second."""
        self.seconds_of_all = 0.0
        """Of reading the whole network, as long as the sampled block and the rest take."""

    def __enter__(self) -> _Sample:
        self._slots = [torch.empty(p.nbytes, dtype=torch.uint8, device=self._device) for p in self._pieces]
        seconds = self._fetch()
        if sum(seconds) < QUICK:
            seconds = self._fetch()
        self.read = sum(entry.nbytes for entry in self._sources()) / sum(seconds)
        *of_block, of_rest = seconds
        self.seconds_of_all = of_rest + len(self._blocks) * sum(of_block)
        for piece, slot in zip(self._pieces, self._slots, strict=True):
            piece.bind(slot)
        return self

    def _fetch(self) -> list[float]:
        """The seconds of each piece."""
        _forget(self._sources())
        return [
            _seconds(partial(self._loader.fetch, piece, slot), self._device)
            for piece, slot in zip(self._pieces, self._slots, strict=True)
        ]

    def _sources(self) -> list[TensorEntry]:
        return [self._entries[name] for piece in self._pieces for name in piece.sources]

    def __exit__(self, *_: object) -> None:
        for piece in self._pieces:
            piece.unbind()
        self._slots.clear()

    def host_speeds(self) -> tuple[float, float]:
        """Bytes per second: copied from (pinned) host memory as streamed blocks are, and made ready to be copied to."""
        flat = self._slots[0]
        buffers: list[HostBuffer] = []

        def prepare(_: int) -> None:
            buffers.append(HostBuffer(flat.numel(), pinned=self._device.type == "cuda"))

        def prepare_some() -> None:
            with ThreadPoolExecutor(PREPARING_THREADS) as pool:
                list(pool.map(prepare, range(PREPARING_THREADS)))

        try:
            prepared = PREPARING_THREADS * flat.numel() / _seconds(prepare_some, self._device)
            buffers[0].flat.copy_(flat)

            def copy() -> None:
                for _ in range(COPIES):
                    flat.copy_(buffers[0].flat, non_blocking=True)

            return COPIES * flat.numel() / _seconds(copy, self._device), prepared
        finally:
            wait(self._device)
            for buffer in buffers:
                buffer.release()


def _forget(entries: list[TensorEntry]) -> None:
    """Drop the tensors from the page cache, so that the disk is measured. Where the system ignores this, the speed is
    that of the cache."""
    for path in {entry.path for entry in entries}:
        file = os.open(path, os.O_RDONLY)
        try:
            for entry in entries:
                if entry.path == path:
                    os.posix_fadvise(file, entry.offset, entry.nbytes, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _time_stage(
    denoiser: _Sample,
    config: ModelConfig,
    shape: VideoShape,
    scale: int,
    guidance: Guidance,
    device: torch.device,
    dtype: torch.dtype,
    graphs: BlockGraphs | None,
) -> tuple[StageSeconds, bool]:
    """The seconds of one step, and whether they were measured on all latent frames."""

    def at(frames: int) -> list[float]:
        grid = LatentGrid(frames, shape.grid(scale).height, shape.grid(scale).width)
        return _time_step(denoiser, config, shape, grid, guidance, device, dtype, graphs)

    frames = shape.grid(scale).frames
    one = at(1)
    if sum(one) * frames <= LIMIT:
        return StageSeconds(*(at(frames) if frames > 1 else one)), True
    two = at(2)
    grown = [a + max(b - a, 0.0) * (frames - 1) for a, b in zip(one, two, strict=True)]
    return StageSeconds(*grown), frames <= 1


def _time_step(
    denoiser: _Sample,
    config: ModelConfig,
    shape: VideoShape,
    grid: LatentGrid,
    guidance: Guidance,
    device: torch.device,
    dtype: torch.dtype,
    graphs: BlockGraphs | None,
) -> list[float]:
    """Seconds, in the order of the fields of `StageSeconds`."""

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=dtype)

    (video, audio), tokens = config.widths, config.version.text_encoder.tokens
    inputs = StageInputs(
        grid,
        shape.frame_rate,
        torch.ones(1, grid.frames, 1, 1, device=device),
        draw(1, shape.audio_tokens, shape.latents.audio_channels),
        positive_text=draw(1, tokens, video),
        negative_text=draw(1, tokens, video),
        audio_text=draw(1, tokens, audio),
    )
    marks: list[float] = []

    def mark() -> None:
        wait(device)
        marks.append(time.perf_counter())

    def blocks() -> Iterator[Any]:
        for _ in range(BLOCKS):
            mark()
            yield denoiser.block
        mark()

    use = graphs.stage((), lambda index: (Place(None, index),)) if graphs else None
    forward = StageForward(denoiser.module, inputs, passes_of(guidance), frozenset({PERTURBED}), blocks, graphs=use)
    latent, sigma = draw(1, grid.tokens, shape.latents.channels), torch.tensor(0.5)

    def step() -> list[float]:
        marks.clear()
        whole = _seconds(lambda: forward.velocities(latent, sigma), device)
        gaps = [after - before for before, after in pairwise(marks)]
        return [whole - sum(gaps), gaps[1], gaps[PERTURBED], gaps[-1]]

    first = step()  # makes the keys and values of the audio's text, and warms up libraries
    if graphs is not None:
        step()  # captures
    again = [step() for _ in range(5 if sum(first) < QUICK else 1)]
    if graphs is not None:
        graphs.release()
    return [median(times) for times in zip(*again, strict=True)]


def _time_text(encoder: _Sample, length: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the text encoder for one prompt: those of the sampled layer times their number."""
    module, layer = encoder.module, encoder.block
    count, module.layers = len(module.layers), nn.ModuleList([layer])
    text.finish_gemma(module, device)
    ids, mask = torch.zeros(1, length, dtype=torch.int64), torch.ones(1, length, dtype=torch.int64)
    mask[0, 0] = 0
    embedded = torch.randn(1, length, module.config.hidden_size, device=device, dtype=dtype)
    marks: list[float] = []

    def mark(*_: object) -> None:
        wait(device)
        marks.append(time.perf_counter())

    hooks = [layer.register_forward_pre_hook(mark), layer.register_forward_hook(mark)]
    try:
        for _ in range(2):  # the first time warms up libraries
            marks.clear()
            whole = _seconds(lambda: text.encode_texts(module, [embedded], [Tokens(ids, mask, False)]), device)
    finally:
        for hook in hooks:
            hook.remove()
    of_layer = marks[1] - marks[0]
    return whole - of_layer + count * of_layer


def _time_decode(
    loader: TensorLoader, config: ModelConfig, shape: VideoShape, device: torch.device, dtype: torch.dtype
) -> float:
    """Seconds of decoding: those of a small piece times its ratio to the size of all tiles."""
    grid, tiling, channels = shape.grid(1), config.version.tiling, shape.latents.channels
    longer = max(grid.height, grid.width)
    across = [spatial_spans(tiling, length, longer) for length in (grid.height, grid.width)]
    tiles = (temporal_spans(tiling, grid.frames), *across)
    largest = [max(span.stop - span.start for span in axis) for axis in tiles]
    shown = [shape.latents.frames_of(span.stop - span.start) for span in tiles[0]]
    cells = [sum(span.stop - span.start for span in axis) for axis in tiles[1:]]

    def at(frames: int, height: int, width: int) -> float:
        """Seconds of all tiles as a piece of that size predicts them."""
        latent = torch.randn(1, channels, frames, height, width, device=device, dtype=dtype)

        def decode() -> None:
            for piece in decode_pieces(decoder.module, latent, tiling):
                to_host(piece)

        decode()
        ratio = sum(shown) / shape.latents.frames_of(frames) * (cells[0] / height) * (cells[1] / width)
        return _seconds(decode, device) * ratio

    few = (3, *largest[1:]) if device.type == "cuda" else (2, 4, 4)
    with _Sample(loader, device) as decoder:
        predicted = at(*(min(a, b) for a, b in zip(few, largest, strict=True)))
        return at(*largest) if predicted <= LIMIT else predicted


def _time_encoders(
    loaders: Mapping[str, TensorLoader],
    config: ModelConfig,
    shape: VideoShape,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Seconds of encoding the sound and, where there is one, the picture in both sizes."""
    mel_frames = math.ceil(shape.seconds * config.sample_rate / config.hop_length) + 1
    with _Sample(loaders["audio_encoder"], device) as encoder:
        mel = torch.randn(1, 2, mel_frames, config.mel_bins, device=device, dtype=dtype)
        sound = _second_time(lambda: encoder.module(mel), device)
    if not shape.pictures:
        return sound, 0.0
    with _Sample(loaders["video_encoder"], device) as encoder:
        sizes = [(shape.height // scale, shape.width // scale) for scale in (2, 1)]
        pictures = [torch.randn(1, 3, 1, *size, device=device, dtype=dtype) for size in sizes]
        return sound, _second_time(lambda: [encoder.module(picture) for picture in pictures], device)


def _second_time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds without what libraries do at first, where that does not take long itself."""
    first = _seconds(work, device)
    return first if first > LIMIT else _seconds(work, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started
