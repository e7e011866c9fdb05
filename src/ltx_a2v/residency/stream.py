"""Blocks that visit the device one after the other.

A few slots, flat buffers at fixed addresses on the device, take the streamed blocks in turn. What must hold, and what
makes it hold on CUDA:

    copy before compute     computing waits for the event that its block's copy has recorded
    compute before reuse    a copy waits for the event that the slot's last computation has recorded
    look-ahead              the copy of the block after next is issued as soon as its slot is free: before the next
                            block computes, and across the end of a sweep
    once per sweep          every streamed block is copied exactly once per sweep

Copies run on a stream of their own, issued by a thread of their own, since reading a file blocks. On a CPU the same
steps run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.residency.layout import Part
from ltx_a2v.residency.sources import Source

DEFAULT_SLOTS = 2


def spread(count: int, resident: int) -> frozenset[int]:
    """Which of `count` blocks stay resident: evenly spaced, so that the bus is busy throughout a sweep."""
    return frozenset(i * count // resident for i in range(resident))


class Slot:
    """One buffer on the device and, for each part that visits it, that part's tensors as views of it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.flat = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._bindable: dict[int, dict[str, Tensor]] = {}
        self.free = _event(device)
        self.filled = _event(device)

    def bind(self, part: Part) -> None:
        views = self._bindable.get(id(part))
        if views is None:
            views = self._bindable[id(part)] = part.bindable(part.layout.views(self.flat))
        part.bind(views)


class BlockStream:
    """Streams the blocks that are not resident. `begin(n)` announces n sweeps, each of which visits every block."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        parts: Sequence[Part],
        source: Source,
        resident: frozenset[int],
        device: torch.device,
        slots: int = DEFAULT_SLOTS,
    ) -> None:
        self._blocks = blocks
        self._parts = parts
        self._source = source
        self._device = device
        self._streamed = [i for i in range(len(blocks)) if i not in resident]
        self._is_resident = [i in resident for i in range(len(blocks))]
        size = max((parts[i].layout.nbytes for i in self._streamed), default=0)
        self._slots = [Slot(size, device) for _ in range(min(slots, len(self._streamed)))]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "block-copies") if device.type == "cuda" else None
        self._pending: dict[int, Future[None] | None] = {}
        self._visit = self._next_copy = self._last_copy = 0
        self.copies = 0
        """How many blocks were copied since the beginning."""

    def begin(self, sweeps: int) -> None:
        """Issue the first copies; the last sweep looks no further ahead than its end."""
        self._settle()
        self._visit = self._next_copy = 0
        self._last_copy = sweeps * len(self._streamed)
        for _ in self._slots:
            self._copy_next()

    def sweep(self) -> Iterator[nn.Module]:
        """Every block in order, ready to compute until the next one is asked for."""
        for index, block in enumerate(self._blocks):
            self.enter(index)
            yield block
            self.leave(index)

    def enter(self, index: int) -> None:
        if self._is_resident[index]:
            return
        assert self._streamed[self._visit % len(self._streamed)] == index, "blocks are visited in order"
        slot = self._slots[self._visit % len(self._slots)]
        pending = self._pending.pop(self._visit)
        if pending is not None:
            pending.result()
        if slot.filled is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.filled)
        slot.bind(self._parts[index])

    def leave(self, index: int) -> None:
        if self._is_resident[index]:
            return
        slot = self._slots[self._visit % len(self._slots)]
        if slot.free is not None:
            slot.free.record(torch.cuda.current_stream(self._device))
        self._visit += 1
        self._copy_next()

    def hook(self) -> list[Any]:
        """Enter and leave each streamed block when its own forward is called; gives the hooks' handles."""
        handles: list[Any] = []
        for index, block in enumerate(self._blocks):
            if not self._is_resident[index]:
                handles.append(block.register_forward_pre_hook(lambda *_, i=index: self.enter(i)))
                handles.append(block.register_forward_hook(lambda *_, i=index: self.leave(i)))
        return handles

    def close(self) -> None:
        """Stop copying and give the slots back; safe in the middle of a sweep."""
        self._last_copy = 0
        self._settle()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        if self._copies is not None:
            self._copies.synchronize()
        for index in self._streamed:
            self._parts[index].unbind()
        self._slots.clear()

    def _copy_next(self) -> None:
        position = self._next_copy
        if position >= self._last_copy:
            return
        self._next_copy += 1
        self.copies += 1
        index = self._streamed[position % len(self._streamed)]
        slot = self._slots[position % len(self._slots)]
        if self._thread is None:
            self._copy(index, slot)
            self._pending[position] = None
        else:
            self._pending[position] = self._thread.submit(self._copy, index, slot)

    @torch.inference_mode()
    def _copy(self, index: int, slot: Slot) -> None:
        with torch.cuda.stream(self._copies) if self._copies is not None else nullcontext():
            if self._copies is not None:
                self._copies.wait_event(slot.free)
            self._source.fetch(index, slot.flat)
            if self._copies is not None:
                slot.filled.record(self._copies)

    def _settle(self) -> None:
        """Wait for what was issued and is no longer wanted; its errors concern nobody."""
        for pending in self._pending.values():
            if pending is not None and not pending.cancel():
                pending.exception()
        self._pending.clear()


def _event(device: torch.device) -> Any:
    return torch.cuda.Event() if device.type == "cuda" else None
