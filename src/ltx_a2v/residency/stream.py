"""Blocks that visit the device one after the other.

A few slots, flat buffers at fixed addresses on the device, take the streamed blocks. Each block has one slot of its
own choice for good: the streamed blocks are dealt out to the slots in turn. What must hold (`sync` makes it hold):

    copy before compute     a block computes after its copy
    compute before reuse    a slot is filled again after its last block has computed
    look-ahead              a slot that becomes free is filled with its next block at once: before the next block
                            computes, and across the end of a sweep
    once per sweep          every streamed block is copied exactly once per sweep

Fixed slots have a price where the streamed blocks are no multiple of the slots (47 with two): the last block of a
sweep and the first of the next then share a slot, so that computing waits for one whole copy per sweep. The bus does
not: the other slots are filled meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.residency.layout import Part
from ltx_a2v.residency.sources import Source
from ltx_a2v.residency.sync import StreamSync, sync_for

DEFAULT_SLOTS = 2


def spread(count: int, resident: int) -> frozenset[int]:
    """Which of `count` blocks stay resident: evenly spaced, so that the bus is busy throughout a sweep."""
    return frozenset(i * count // resident for i in range(resident))


class Slot:
    """One buffer on the device and, for each part that visits it, that part's tensors as views of it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.flat = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._bindable: dict[int, dict[str, Tensor]] = {}

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
        sync: StreamSync | None = None,
    ) -> None:
        self._blocks = blocks
        self._parts = parts
        self._source = source
        streamed = [i for i in range(len(blocks)) if i not in resident]
        count = min(slots, len(streamed))
        self._slot_of = {block: place % count for place, block in enumerate(streamed)}
        self._blocks_of = [streamed[slot::count] for slot in range(count)]
        size = max((parts[i].layout.nbytes for i in streamed), default=0)
        self._slots = [Slot(size, device) for _ in range(count)]
        self._sync = sync or sync_for(device, count)
        self._coming: list[Iterator[int]] = []
        self._current: dict[int, int] = {}
        """The block that a slot holds, or that is being copied there."""
        self.copies = 0
        """How many blocks were copied since the beginning."""

    def begin(self, sweeps: int) -> None:
        """Issue the first copies; the last sweep looks no further ahead than its end."""
        self._sync.settle()
        self._coming = [chain.from_iterable(repeat(blocks, sweeps)) for blocks in self._blocks_of]
        for slot in range(len(self._slots)):
            self._copy_next(slot)

    def sweep(self) -> Iterator[nn.Module]:
        """Every block in order, ready to compute until the next one is asked for."""
        for index, block in enumerate(self._blocks):
            self.enter(index)
            yield block
            self.leave(index)

    def enter(self, index: int) -> None:
        slot = self._slot_of.get(index)
        if slot is None:
            return
        assert self._current.get(slot) == index, "blocks are visited in order, as often as `begin` announced"
        self._sync.wait_for_copy(slot)
        self._slots[slot].bind(self._parts[index])

    def leave(self, index: int) -> None:
        slot = self._slot_of.get(index)
        if slot is None:
            return
        self._sync.computed(slot)
        self._copy_next(slot)

    def hook(self) -> list[Any]:
        """Enter and leave each streamed block when its own forward is called; gives the hooks' handles."""
        handles: list[Any] = []
        for index in self._slot_of:
            block = self._blocks[index]
            handles.append(block.register_forward_pre_hook(lambda *_, i=index: self.enter(i)))
            handles.append(block.register_forward_hook(lambda *_, i=index: self.leave(i)))
        return handles

    def close(self) -> None:
        """Stop copying and give the slots back; safe in the middle of a sweep."""
        self._sync.close()
        self._coming = []
        for index in self._slot_of:
            self._parts[index].unbind()
        self._slots.clear()

    def _copy_next(self, slot: int) -> None:
        index = self._current[slot] = next(self._coming[slot], -1)
        if index < 0:
            return
        self.copies += 1
        self._sync.copy(slot, partial(self._source.fetch, index, self._slots[slot].flat))
