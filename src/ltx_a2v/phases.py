"""What a phase took: seconds, and the peak of device memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar, cast, overload

import torch

from ltx_a2v.events import Event, Notice, Phase, PhaseFinished, PhaseStarted
from ltx_a2v.residency.ledger import Ledger

GIB = 2**30
Result = TypeVar("Result")
Work = Generator[Event, None, Result]
"""Work that says what it does and returns what it made."""


class PhaseLog:
    """Runs the phases of one generation and keeps what its report needs."""

    def __init__(self, device: torch.device, ledger: Ledger | None = None) -> None:
        """On a CPU there are peaks only where a `ledger` keeps them."""
        self._device = device
        self._ledger = ledger
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.peak_gib = 0.0
        self.peaks: dict[str, tuple[float, float]] = {}
        """GiB allocated and reserved, by phase."""
        self.notices: list[str] = []

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    @overload
    def phase(self, phase: Phase, work: Callable[[], Work[Result]], steps: int = 0) -> Work[Result]: ...

    @overload
    def phase(self, phase: Phase, work: Callable[[], Result], steps: int = 0) -> Work[Result]: ...

    def phase(self, phase: Phase, work: Callable[[], Any], steps: int = 0) -> Work[Any]:
        """Run `work` between `PhaseStarted` and `PhaseFinished`; where it is a generator, pass its events on."""
        yield PhaseStarted(phase, steps)
        started = time.perf_counter()
        self._reset_peak()
        made = work()
        result = (yield from self._pass_on(made)) if isinstance(made, Generator) else made
        allocated, reserved = self._peak()
        self.seconds[phase] = round(time.perf_counter() - started, 3)
        self.peak_gib = max(self.peak_gib, allocated)
        self.peaks[phase] = allocated, reserved
        yield PhaseFinished(phase, self.seconds[phase], allocated, reserved)
        return result

    def _pass_on(self, events: Work[Result]) -> Work[Result]:
        """However this ends, the work's own clean-up has been done."""
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as stop:
                    return cast("Result", stop.value)
                if isinstance(event, Notice):
                    self.notices.append(event.message)
                yield event

    def _reset_peak(self) -> None:
        if self._ledger is not None:
            self._ledger.reset_peak()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak(self) -> tuple[float, float]:
        """GiB allocated and reserved, once the device has finished."""
        if self._ledger is not None:
            return round(self._ledger.peak / GIB, 6), 0.0
        if self._device.type != "cuda":
            return 0.0, 0.0
        torch.cuda.synchronize(self._device)
        allocated, reserved = torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved
        return round(allocated(self._device) / GIB, 3), round(reserved(self._device) / GIB, 3)
