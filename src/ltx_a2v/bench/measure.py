"""One measured generation, through `A2VPipeline`: seconds, steps, rates, memory, and the digest of its file."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ltx_a2v.bench.case import STANDARD, Case
from ltx_a2v.bench.flops import step_flops
from ltx_a2v.bench.machine import FLOAT8
from ltx_a2v.diffusion.guidance import UNGUIDED, Pass, passes_of
from ltx_a2v.events import Done, PhaseFinished, PhaseStarted, StepFinished
from ltx_a2v.fitting import VideoShape, shape_of
from ltx_a2v.hardware.driver import read_memory
from ltx_a2v.planning.plan import Plan
from ltx_a2v.quantization import MODES
from ltx_a2v.quantization.fp8_scaled_mm import Fp8ScaledMMLinear
from ltx_a2v.request import Guidance
from ltx_a2v.session import A2VPipeline

GIB = 2**30
STAGES = ("stage_1", "stage_2")
_LOOK_EVERY = 0.05
"""Seconds between two looks at the driver's memory."""


def measure_run(pipeline: A2VPipeline, case: Case) -> dict[str, Any]:
    """Generate once. What only a GPU has is None on a CPU.

    Raises what `A2VPipeline.generate` raises.
    """
    with TemporaryDirectory(prefix="ltx-a2v-bench-") as folder:
        request = case.request(Path(folder))
        plan = pipeline.plan(request)
        marks, finished, details = _Marks(pipeline.device), list[PhaseFinished](), dict[str, Any]()
        with _driver_peak(pipeline.device) as driver_peak:
            started = time.perf_counter()
            for event in pipeline.generate(request):
                marks.add(event)
                if isinstance(event, PhaseFinished):
                    finished.append(event)
                elif isinstance(event, Done):
                    details = event.result.details
            seconds = time.perf_counter() - started
        content = request.output_path.read_bytes()
    return {
        "seconds": round(seconds, 4),
        "prompts_encoded": details["prompts_encoded"],
        "phases": {phase.phase: phase.seconds for phase in finished},
        "steps": marks.steps(),
        "memory": _memory(pipeline, plan, finished, driver_peak),
        "plan": _placement(plan),
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }


class _Marks:
    """When each step of the stages ended. On a GPU events mark that in its stream, so that the CPU never waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_stage: dict[str, list[Any]] = {}

    def add(self, event: object) -> None:
        if isinstance(event, PhaseStarted) and event.phase in STAGES:
            self._of_stage[event.phase] = [self._now()]  # again, where a second attempt was necessary
        elif isinstance(event, StepFinished) and event.phase in STAGES:
            self._of_stage[event.phase].append(self._now())

    def steps(self) -> dict[str, dict[str, Any]]:
        """By stage: seconds of the first step, which also loads, and the spread of the others."""
        return {stage: _summary(list(map(self._between, pairwise(marks)))) for stage, marks in self._of_stage.items()}

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        with torch.cuda.device(self._device):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return event

    def _between(self, marks: tuple[Any, Any]) -> float:
        before, after = marks
        return float(before.elapsed_time(after) / 1e3 if self._device.type == "cuda" else after - before)


def _summary(gaps: list[float]) -> dict[str, Any]:
    first, others = gaps[0] if gaps else None, gaps[1:]
    known = {"median": median(others), "least": min(others), "most": max(others)} if others else {}
    empty: dict[str, float | None] = {"first": first, "median": None, "least": None, "most": None}
    rounded = {name: value and round(value, 5) for name, value in (empty | known).items()}
    return {**rounded, "count": len(others)}


def rates(
    pipeline: A2VPipeline, case: Case, steps: dict[str, dict[str, Any]], speeds: dict[str, Any]
) -> dict[str, Any]:
    """TFLOP of a step, TFLOP/s, and their share of the peak that was measured for the mode's products.

    `steps` are a run's, `speeds` of `machine.measure_speeds`.
    """
    flops = _flops(pipeline, case)
    reached = {
        stage: round(flops[stage] / times["median"] / 1e12, 4)
        for stage, times in steps.items()
        if times["median"] is not None
    }
    peak = speeds["peak_tflops"][_peak_name(pipeline, case)]
    return {
        "tflop_per_step": {stage: count / 1e12 for stage, count in flops.items()},
        "tflops": reached,
        "peak_share": {stage: round(rate / peak, 4) for stage, rate in reached.items()},
    }


def _peak_name(pipeline: A2VPipeline, case: Case) -> str:
    """The name of the peak that the mode's products are compared with."""
    multiplies_fp8 = issubclass(MODES[case.mode], Fp8ScaledMMLinear) and pipeline.device.type == "cuda"
    return FLOAT8 if multiplies_fp8 else str(pipeline.model.dtype).removeprefix("torch.")


def _flops(pipeline: A2VPipeline, case: Case) -> dict[str, int]:
    shape = shape_of(case.request(Path()), case.frames, pipeline.model.files)
    guidance, config = _guidance(shape, case), pipeline.model.config
    passes, perturbed = passes_of(guidance), frozenset(guidance.stg_blocks or ())
    unguided = frozenset({Pass.POSITIVE})
    return {
        "stage_1": step_flops(config, shape.grid(2), shape.audio_tokens, passes, perturbed),
        "stage_2": step_flops(config, shape.grid(1), shape.audio_tokens, unguided),
    }


def _guidance(shape: VideoShape, case: Case) -> Guidance:
    """Of stage 1: the request's, or of any other quality none."""
    return shape.guidance if case.quality == STANDARD else UNGUIDED


def _memory(pipeline: A2VPipeline, plan: Plan, finished: list[PhaseFinished], driver_peak: list[int]) -> dict[str, Any]:
    """Peaks in GiB: of tensors, as predicted, of the allocator, and of the whole GPU, other processes included."""
    is_gpu = pipeline.device.type == "cuda"
    allocated = max((phase.allocated_gib for phase in finished), default=0.0)
    return {
        "allocated_gib": allocated or None,
        "predicted_gib": round(plan.peak / GIB, 3),
        "reserved_gib": max(phase.reserved_gib for phase in finished) if is_gpu else None,
        "driver_gib": round(max(driver_peak) / GIB, 3) if driver_peak else None,
        "allocated_by_phase": {phase.phase: phase.allocated_gib for phase in finished},
    }


def _placement(plan: Plan) -> dict[str, Any]:
    transformer = plan.placements["transformer"]
    return {
        "resident_blocks": transformer.resident_blocks,
        "home": transformer.home,
        "keep": plan.keep,
        "host_gib": round(plan.host_bytes / GIB, 3),
        "bus_bytes_per_step": plan.bus_bytes_per_step,
    }


@contextmanager
def _driver_peak(device: torch.device) -> Iterator[list[int]]:
    """Bytes in use as the driver sees them, looked at by a thread; empty on a CPU."""
    seen: list[int] = []
    if device.type != "cuda":
        yield seen
        return
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            memory = read_memory(str(device), None)
            if memory is not None:
                seen.append(memory.used)
            over.wait(_LOOK_EVERY)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
