"""Reads the weights of later phases while an earlier one runs: one thread, host memory only.

never the device    the plan counts what is on the device at the same time, and nothing is added to that
the phase first     the thread leaves a network that a phase asks for, after the piece at hand
no errors           a file that cannot be read is left to the phase, which reports it
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import torch

from ltx_a2v.errors import A2VError

Reading = Callable[[Callable[[], bool]], int]
"""Reads one network until it is done or the given function says to stop; returns the bytes read."""


class ReadAhead:
    """A context in which a thread runs the `readings` in order. At its end the thread has ended too."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.nbytes = 0
        """Bytes read so far."""
        self.seconds = 0.0
        """How long the thread worked."""
        self._readings = readings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        if self._readings:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._readings:
            self._thread.join()

    @torch.inference_mode()
    def _read(self) -> None:
        started = time.perf_counter()
        try:
            for reading in self._readings:
                if self._stop.is_set():
                    break
                self.nbytes += reading(self._stop.is_set)
        except (A2VError, OSError, RuntimeError, MemoryError):
            pass
        finally:
            self.seconds = time.perf_counter() - started
