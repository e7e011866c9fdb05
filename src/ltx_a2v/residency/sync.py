"""Synchronises copies into a slot with computation from it.

    copy before compute     `wait_for_copy`: later computation starts after the slot's copy
    compute before reuse    `computed`: the slot's next copy starts after the computation so far

On CUDA copies run on a separate stream and are issued by a separate thread, because reading a file blocks. Two events
per slot order the streams; the CPU waits for neither. On a CPU a copy runs at once, in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from ltx_a2v.hardware.streams import side_stream


class StreamSync(Protocol):
    """The orderings between copies and computation, by slot number. Calls come from one thread."""

    def copy(self, slot: int, work: Callable[[], None]) -> None:
        """Run `work`, which fills the slot, after the computation that `computed` has marked."""

    def wait_for_copy(self, slot: int) -> None:
        """Make later computation wait for the slot's copy. Raises the error of the copy."""

    def computed(self, slot: int) -> None:
        """Mark the end of the computation from the slot: the next copy waits for it."""

    def settle(self) -> None:
        """Cancel the copies that have not begun and wait for those that have; their errors are discarded."""

    def close(self) -> None:
        """As `settle`, and wait until the device has finished the copies, so that their memory may be freed."""


def sync_for(device: torch.device, slots: int) -> StreamSync:
    return CudaSync(device, slots) if device.type == "cuda" else InOrderSync()


class InOrderSync:
    """Copies run at once, in the caller's thread, so there is nothing to wait for."""

    @torch.inference_mode()
    def copy(self, slot: int, work: Callable[[], None]) -> None:  # noqa: ARG002
        work()

    def wait_for_copy(self, slot: int) -> None:
        pass

    def computed(self, slot: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class CudaSync:
    """A stream and a thread for the copies; per slot one event for "filled" and one for "free"."""

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._stream = side_stream(device)
        self._thread = ThreadPoolExecutor(1, "block-copies")
        self._filled = [torch.cuda.Event() for _ in range(slots)]
        self._free = [torch.cuda.Event() for _ in range(slots)]
        self._pending: dict[int, Future[None]] = {}

    def copy(self, slot: int, work: Callable[[], None]) -> None:
        self._pending[slot] = self._thread.submit(self._copy, slot, work)

    def wait_for_copy(self, slot: int) -> None:
        self._pending.pop(slot).result()  # now the event is recorded; an older record would order nothing
        torch.cuda.current_stream(self._device).wait_event(self._filled[slot])

    def computed(self, slot: int) -> None:
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def settle(self) -> None:
        begun = [pending for pending in self._pending.values() if not pending.cancel()]
        for pending in begun:
            pending.exception()
        self._pending.clear()

    def close(self) -> None:
        self.settle()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._stream.synchronize()

    @torch.inference_mode()
    def _copy(self, slot: int, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._free[slot])
            work()
            self._filled[slot].record(self._stream)
