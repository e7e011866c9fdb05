"""What a phase took: seconds, and the peak of device memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

import torch

from ltx_a2v.events import Event, Notice, Phase, PhaseFinished, PhaseStarted

GIB = 2**30
Result = TypeVar("Result")
Work = Generator[Event, None, Result]
"""Work that says what it does and returns what it made."""


class PhaseLog:
    """Runs the phases of one generation and keeps what its report needs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.peak_gib = 0.0
        self.notices: list[str] = []

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def phase(self, phase: Phase, work: Callable[[], Work[Result]], steps: int = 0) -> Work[Result]:
        """Run `work` and pass its events on, between `PhaseStarted` and `PhaseFinished`."""
        yield PhaseStarted(phase, steps)
        started = time.perf_counter()
        self._reset_peak()
        events = work()
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: Result = stop.value
                break
            if isinstance(event, Notice):
                self.notices.append(event.message)
            yield event
        allocated, reserved = self._peak()
        self.seconds[phase] = round(time.perf_counter() - started, 3)
        self.peak_gib = max(self.peak_gib, allocated)
        yield PhaseFinished(phase, self.seconds[phase], allocated, reserved)
        return result

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak(self) -> tuple[float, float]:
        """GiB allocated and reserved, once the device has finished."""
        if self._device.type != "cuda":
            return 0.0, 0.0
        torch.cuda.synchronize(self._device)
        allocated, reserved = torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved
        return round(allocated(self._device) / GIB, 3), round(reserved(self._device) / GIB, 3)
