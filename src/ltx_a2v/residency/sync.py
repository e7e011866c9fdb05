"""How copying into a slot and computing from it wait for each other.

    copy before compute     `wait_for_copy`: computing that follows sees what the slot's copy wrote
    compute before reuse    `computed`: the slot's next copy begins after what has been computed so far

On CUDA copies run on a stream of their own, issued by a thread of their own because reading a file blocks; two events
per slot order the streams, and the CPU waits for neither. On a CPU copies run where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch


class StreamSync(Protocol):
    """The orderings between copies and computation, by slot number. Calls come from one thread."""

    def copy(self, slot: int, work: Callable[[], None]) -> None:
        """Run `work`, which fills the slot, after what `computed` has marked there."""

    def wait_for_copy(self, slot: int) -> None:
        """Let what is computed next wait for the slot's copy. Raises what the copy raised."""

    def computed(self, slot: int) -> None:
        """Mark what has been computed from the slot: the next copy waits for it."""

    def settle(self) -> None:
        """Drop the copies that have not begun and wait for those that have; their errors are dropped too."""

    def close(self) -> None:
        """As `settle`, and wait until the device has finished the copies: their memory may be freed."""


def sync_for(device: torch.device, slots: int) -> StreamSync:
    return CudaSync(device, slots) if device.type == "cuda" else InOrderSync()


class InOrderSync:
    """Copies run where they are asked for: nothing is ever under way."""

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
    """A stream and a thread for the copies; per slot an event that says it is filled, and one that says it is free."""

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, "block-copies")
        self._filled = [torch.cuda.Event() for _ in range(slots)]
        self._free = [torch.cuda.Event() for _ in range(slots)]
        self._pending: dict[int, Future[None]] = {}

    def copy(self, slot: int, work: Callable[[], None]) -> None:
        self._pending[slot] = self._thread.submit(self._copy, slot, work)

    def wait_for_copy(self, slot: int) -> None:
        self._pending.pop(slot).result()  # the event is recorded by then; an older record would order nothing
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
