"""Stand-ins that notice what a CPU, where everything happens in order, would hide."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class RecordingSync:
    """Copies run as late as possible: where nobody waits for one, a block computes with what was there before.

    A copy into a slot that computing has not left is refused.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.issued: list[Callable[[], None]] = []
        self._pending: dict[int, Callable[[], None]] = {}
        self._in_use: set[int] = set()

    def copy(self, slot: int, work: Callable[[], None]) -> None:
        self.calls.append(("copy", slot))
        assert slot not in self._pending, "one copy at a time"
        assert slot not in self._in_use, "compute before reuse"
        self.issued.append(work)
        self._pending[slot] = work

    def wait_for_copy(self, slot: int) -> None:
        self.calls.append(("wait", slot))
        self._in_use.add(slot)
        self._pending.pop(slot)()

    def computed(self, slot: int) -> None:
        self.calls.append(("computed", slot))
        self._in_use.remove(slot)

    def settle(self) -> None:
        self._pending.clear()
        self._in_use.clear()

    def close(self) -> None:
        self.calls.append(("close", -1))
        self.settle()


class FakeGpu:
    """Streams and events without a GPU: `work` notes an operation on the current stream and gives what it is certain to
    come after."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._local = threading.local()
        self._main = FakeStream()
        self.synchronized: list[FakeStream] = []
        patch.setattr(torch.cuda, "Stream", lambda device: FakeStream(self))
        patch.setattr(torch.cuda, "Event", FakeEvent)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        patch.setattr(torch.cuda, "stream", self.on)

    @property
    def current(self) -> FakeStream:
        return getattr(self._local, "stream", self._main)

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self._local.stream = self.current, stream
        try:
            yield
        finally:
            self._local.stream = before

    def work(self, operation: Any) -> set[Any]:
        before = set(self.current.done)
        self.current.done.add(operation)
        return before


class FakeStream:
    """`done`: the operations that have finished when the next one on this stream begins."""

    def __init__(self, gpu: FakeGpu | None = None) -> None:
        self.done: set[Any] = set()
        self._gpu = gpu

    def wait_event(self, event: FakeEvent) -> None:
        self.done |= event.done

    def synchronize(self) -> None:
        if self._gpu is not None:
            self._gpu.synchronized.append(self)


class FakeEvent:
    """Knows what its stream had done when it was recorded."""

    def __init__(self) -> None:
        self.done: set[Any] = set()

    def record(self, stream: FakeStream) -> None:
        self.done = set(stream.done)
