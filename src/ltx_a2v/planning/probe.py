"""How fast this machine is: one block of the real shapes is read, copied and computed as a generation would do it.

It takes seconds, and the memory of a block, of what is in no block, and of one step. Where even a step of one block is
slow, as on a CPU, fewer latent frames are computed and the rest is extrapolated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, passes_of
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.model.recipe import Recipe, split
from ltx_a2v.networks import text
from ltx_a2v.networks.video_vae import Tiling, decode_frames
from ltx_a2v.planning.needs import Shape
from ltx_a2v.request import Guidance
from ltx_a2v.residency.sources import FileSource, HostBuffer
from ltx_a2v.residency.stream import Slot
from ltx_a2v.settings.defaults import TEMPORAL_FACTOR

BLOCKS = 4
"""Visits of the sampled block: two before the perturbed pass has a row of its own, its first, and one after."""
PERTURBED = 2
LIMIT = 3.0
"""Seconds above which a step of the sampled blocks is measured on fewer latent frames."""
QUICK = 0.5
"""Seconds below which something is measured again, so that it is the work that counts and not its beginning."""
COPIES = 4


@dataclass(frozen=True)
class StageSeconds:
    """Of one step."""

    around: float
    """What is in no block."""
    before: float
    """A block before the perturbed pass has a row of its own,"""
    perturbed: float
    """where it is perturbed,"""
    after: float
    """and after that."""

    def step(self, num_blocks: int, perturbed: frozenset[int]) -> float:
        first = min(perturbed, default=num_blocks)
        blocks = (
            self.perturbed if i in perturbed else self.before if i < first else self.after for i in range(num_blocks)
        )
        return self.around + sum(blocks)


@dataclass(frozen=True)
class Speeds:
    """As measured; bytes and seconds."""

    read: float
    """Bytes of the checkpoint per second: read, converted and brought to the device."""
    copy: float
    """Bytes per second from host memory to the device."""
    step_1: float
    step_2: float
    """Seconds that a step of either stage computes, from one block."""
    decode: float
    """Seconds that decoding computes, from a piece of it."""
    per_parameter: float
    """Seconds that the transformer takes per parameter and token: what other networks are estimated with."""
    overlaps: bool
    """Copies run beside computing."""
    extrapolated: bool
    """Steps were measured on fewer latent frames than they have."""


@torch.inference_mode()
def probe(
    recipes: Mapping[str, Recipe], config: ModelConfig, shape: Shape, device: torch.device, dtype: torch.dtype
) -> Speeds:
    """Measure on `device`. Raises what reading and computing raise."""
    with ExitStack() as stack:
        denoiser = stack.enter_context(_Sample(recipes["transformer"], device))
        styles = [stack.enter_context(_Sample(r, device)) for name, r in recipes.items() if name.startswith("lora ")]
        for style in styles:
            stack.enter_context(style.module.attached(denoiser.module))
        stage_1, whole_1 = _time_stage(denoiser, config, shape, 2, shape.guidance, device, dtype)
        distilled = stack.enter_context(_Sample(recipes["distilled"], device))
        stack.enter_context(distilled.module.attached(denoiser.module))
        stage_2, whole_2 = _time_stage(denoiser, config, shape, 1, UNGUIDED, device, dtype)
        read, copy = denoiser.read, denoiser.copy_speed()
        block_parameters = denoiser.block_parameters
    perturbed = frozenset(shape.guidance.stg_blocks or ()) if Pass.PERTURBED in passes_of(shape.guidance) else ()
    tokens = shape.grid(1).tokens
    return Speeds(
        read=read,
        copy=copy,
        step_1=stage_1.step(config.num_layers, frozenset(perturbed)),
        step_2=stage_2.step(config.num_layers, frozenset()),
        decode=_time_decode(recipes["video_decoder"], shape, device, dtype),
        per_parameter=stage_2.before / (block_parameters * tokens),
        overlaps=device.type == "cuda",
        extrapolated=not (whole_1 and whole_2),
    )


class _Sample:
    """A network of which one block is on the device, and what is in no block."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.module: Any = recipe.build()
        rest, parts, blocks = split(recipe, self.module)
        by_size = sorted(range(len(parts)), key=lambda i: parts[i].part.layout.nbytes)
        sampled = by_size[len(parts) // 2 : len(parts) // 2 + 1]
        self.block: nn.Module | None = blocks[sampled[0]] if sampled else None
        prefix = f"{recipe.block_lists[0]}.{sampled[0]}." if sampled else "\0"
        self.block_parameters = sum(prod(e.shape) for name, e in recipe.entries.items() if name.startswith(prefix))
        self._device = device
        self._held = [(parts[i], i) for i in sampled] + [(rest, len(parts))]
        self._files = FileSource(recipe, [*parts, rest])
        self._slots: list[Slot] = []
        self._entries = recipe.entries
        self.read = 0.0

    def __enter__(self) -> _Sample:
        self._slots = [Slot(loaded.part.layout.nbytes, self._device) for loaded, _ in self._held]
        seconds = _seconds(self._fetch, self._device)
        if seconds < QUICK:
            seconds = _seconds(self._fetch, self._device)
        self.read = sum(entry.nbytes for entry in self._sources()) / seconds
        for (loaded, _), slot in zip(self._held, self._slots, strict=True):
            slot.bind(loaded.part)
        return self

    def _fetch(self) -> None:
        _forget(self._sources())
        for (_, index), slot in zip(self._held, self._slots, strict=True):
            self._files.fetch(index, slot.flat)

    def _sources(self) -> list[TensorEntry]:
        return [self._entries[name] for loaded, _ in self._held for name in loaded.sources]

    def __exit__(self, *_: object) -> None:
        for loaded, _index in self._held:
            loaded.part.unbind()
        self._slots.clear()

    def copy_speed(self) -> float:
        """From (pinned) host memory, as blocks that are streamed are copied."""
        flat = self._slots[0].flat
        buffer = HostBuffer(flat.numel(), pinned=self._device.type == "cuda")
        try:
            buffer.flat.copy_(flat)

            def copy() -> None:
                for _ in range(COPIES):
                    flat.copy_(buffer.flat, non_blocking=True)

            return COPIES * flat.numel() / _seconds(copy, self._device)
        finally:
            _wait(self._device)
            buffer.release()


def _forget(entries: list[TensorEntry]) -> None:
    """Let the page cache give up what will be read, so that the disk is measured; where the system does not, the speed
    is the cache's."""
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
    shape: Shape,
    scale: int,
    guidance: Guidance,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[StageSeconds, bool]:
    """And whether all latent frames were computed."""

    def at(frames: int) -> list[float]:
        grid = LatentGrid(frames, shape.grid(scale).height, shape.grid(scale).width)
        return _time_step(denoiser, config, shape, grid, guidance, device, dtype)

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
    shape: Shape,
    grid: LatentGrid,
    guidance: Guidance,
    device: torch.device,
    dtype: torch.dtype,
) -> list[float]:
    """Seconds of `StageSeconds`' fields."""

    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=dtype)

    video, audio = config.widths
    inputs = StageInputs(
        grid,
        shape.frame_rate,
        torch.ones(1, grid.frames, 1, 1, device=device),
        draw(1, shape.audio_tokens, 128),
        *(draw(1, text.MAX_TOKENS, width) for width in (video, video, audio)),
    )
    marks: list[float] = []

    def mark() -> None:
        _wait(device)
        marks.append(time.perf_counter())

    def blocks() -> Iterator[Any]:
        for _ in range(BLOCKS):
            mark()
            yield denoiser.block
        mark()

    forward = StageForward(denoiser.module, inputs, passes_of(guidance), frozenset({PERTURBED}), blocks)
    latent, sigma = draw(1, grid.tokens, 128), torch.tensor(0.5)

    def step() -> list[float]:
        marks.clear()
        whole = _seconds(lambda: forward.velocities(latent, sigma), device)
        gaps = [after - before for before, after in pairwise(marks)]
        return [whole - sum(gaps), gaps[1], gaps[PERTURBED], gaps[-1]]

    first = step()  # text keys and values of the audio, and whatever libraries prepare at first
    again = [step() for _ in range(5 if sum(first) < QUICK else 1)]
    return [median(times) for times in zip(*again, strict=True)]


def _time_decode(recipe: Recipe, shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """A piece of the video, and how often it goes into all tiles."""
    grid, tiling = shape.grid(1), Tiling()
    longer = max(grid.height, grid.width)
    tiles = (tiling.temporal(grid.frames), tiling.spatial(grid.height, longer), tiling.spatial(grid.width, longer))
    largest = [max(span.stop - span.start for span in axis) for axis in tiles]
    few = (3, *largest[1:]) if device.type == "cuda" else (2, 4, 4)
    frames, height, width = (min(a, b) for a, b in zip(few, largest, strict=True))
    with _Sample(recipe, device) as decoder:
        latent = torch.randn(1, 128, frames, height, width, device=device, dtype=dtype)

        def decode() -> None:
            for _ in decode_frames(decoder.module, latent, tiling):
                pass

        decode()
        seconds = _seconds(decode, device)
    of_frames = sum(_frames(span.stop - span.start) for span in tiles[0]) / _frames(frames)
    of_cells = [sum(span.stop - span.start for span in axis) for axis in tiles[1:]]
    return seconds * of_frames * (of_cells[0] / height) * (of_cells[1] / width)


def _frames(latent_frames: int) -> int:
    return TEMPORAL_FACTOR * (latent_frames - 1) + 1


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
