"""For which share of a step the GPU computes, from torch's profiler.

The profiler slows the CPU down, so kernels are measured in one profiled step and compared with the median of the steps
that were not profiled. Copies from host memory overlap with kernels and do not count as computing.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch._C._autograd import DeviceType

from ltx_a2v.bench.case import Case
from ltx_a2v.events import StepFinished
from ltx_a2v.hardware.streams import wait
from ltx_a2v.session import A2VPipeline

_FIRST = 2
"""Steps before the profiled one: the first also reads weights and compiles or captures kernels."""
_COPIES = ("Memcpy HtoD", "Memcpy DtoH")


def profile_step(pipeline: A2VPipeline, case: Case) -> dict[str, float | None]:
    """Seconds of kernels and of copies in one step of stage 1; None for both without a GPU, or with one step."""
    if pipeline.device.type != "cuda" or case.steps < 2:
        return {"kernel_seconds": None, "copy_seconds": None}
    events = _profiled_events(pipeline, case)
    spans = [(event.name, event.time_range.start / 1e6, event.time_range.end / 1e6) for event in events]
    return seconds_of(spans)


def seconds_of(spans: Iterable[tuple[str, float, float]]) -> dict[str, float | None]:
    """From name, start and end of what ran on the device; None where nothing did: the profiler saw no kernels."""
    kernels: list[tuple[float, float]] = []
    copies: list[tuple[float, float]] = []
    for name, start, end in spans:
        (copies if name.startswith(_COPIES) else kernels).append((start, end))
    covered = {"kernel_seconds": union(kernels), "copy_seconds": union(copies)}
    return {name: round(seconds, 6) if kernels else None for name, seconds in covered.items()}


def union(spans: Iterable[tuple[float, float]]) -> float:
    """The time that is covered by at least one of the spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def _profiled_events(pipeline: A2VPipeline, case: Case) -> list[Any]:
    """Of one step, after which the generation is stopped."""
    before = min(_FIRST, case.steps - 1)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    with TemporaryDirectory() as folder, closing(pipeline.generate(case.request(Path(folder)))) as events:
        for event in events:
            if not isinstance(event, StepFinished) or event.phase != "stage_1":
                continue
            wait(pipeline.device)
            if event.step == before:
                profiler.start()
            elif event.step == before + 1:
                profiler.stop()
                break
    return [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA]
