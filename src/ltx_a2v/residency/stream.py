"""Streams the blocks that are not resident to the device, one after the other.

Streamed blocks are copied into a few slots, flat buffers at fixed addresses on the device. Streamed block i always uses
slot i modulo the number of slots. Invariants (the first two are enforced by `sync`):

    copy before compute     a block computes after its copy
    compute before reuse    a slot is filled again after its last block has computed
    prefetch                as soon as a slot is free, the copy of its next block is issued: before the next block
                            computes, and across the end of a sweep
    once per sweep          every streamed block is copied exactly once per sweep

Fixed slots cost time where the number of streamed blocks is not a multiple of the slots (47 with two): the last block
of a sweep and the first of the next then share a slot, so computation waits for one whole copy per sweep. The bus stays
busy: the other slots are filled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple

import torch
from torch import nn

from ltx_a2v.residency.loader import Source
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.sync import StreamSync, sync_for

DEFAULT_SLOTS = 2


class Place(NamedTuple):
    """Where a block's weights are while it computes. Until the stream is closed, blocks of equal places have their
    tensors at the same addresses, one block after the other."""

    slot: int | None
    """None for a resident block."""
    number: int
    """Of the block, or in a slot of its layout."""


def spread(count: int, resident: int) -> frozenset[int]:
    """Which of `count` blocks stay resident: evenly spaced, so that the bus is busy throughout a sweep."""
    return frozenset(i * count // resident for i in range(resident))


class BlockStream:
    """A network in use: its resident pieces are on the device, the other blocks are streamed through the slots.

    `begin(n)` announces n sweeps, each of which visits every block.
    """

    def __init__(
        self,
        module: nn.Module,
        rest: Piece,
        blocks: Sequence[Piece],
        source: Source,
        resident: frozenset[int],
        device: torch.device,
        slots: int = DEFAULT_SLOTS,
        sync: StreamSync | None = None,
    ) -> None:
        """`rest` and the `resident` blocks are bound already."""
        self.module: Any = module
        self.copies = 0
        """How many blocks were copied since the beginning."""
        self.before_close: Callable[[], None] = _nothing
        """Called before the device's memory is freed, by those who keep addresses of the weights."""
        self._rest = rest
        self._pieces = blocks
        self._blocks = [module.get_submodule(piece.name) for piece in blocks]
        self._source = source
        streamed = [i for i in range(len(blocks)) if i not in resident]
        count = min(slots, len(streamed))
        self._slot_of = {block: place % count for place, block in enumerate(streamed)}
        self._blocks_of = [streamed[slot::count] for slot in range(count)]
        layouts: dict[Hashable, int] = {}
        self._layout_of = {i: layouts.setdefault(blocks[i].layout, len(layouts)) for i in streamed}
        size = max((blocks[i].nbytes for i in streamed), default=0)
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._sync = sync or sync_for(device, count)
        self._coming: list[Iterator[int]] = []
        self._current: dict[int, int] = {}
        """By slot: the block that it holds or that is being copied into it; -1 after the last."""

    def begin(self, sweeps: int) -> None:
        """Issue the first copies. Nothing is prefetched beyond the last of the sweeps."""
        self._sync.settle()
        self._coming = [chain.from_iterable(repeat(blocks, sweeps)) for blocks in self._blocks_of]
        for slot in range(len(self._slots)):
            self._copy_next(slot)

    def sweep(self) -> Iterator[nn.Module]:
        """Every block in order, bound to its weights until the next one is requested."""
        for index, block in enumerate(self._blocks):
            self.enter(index)
            yield block
            self.leave(index)

    def place_of(self, index: int) -> Place:
        slot = self._slot_of.get(index)
        return Place(None, index) if slot is None else Place(slot, self._layout_of[index])

    def enter(self, index: int) -> None:
        slot = self._slot_of.get(index)
        if slot is None:
            return
        assert self._current.get(slot) == index, "blocks are visited in order, as often as `begin` announced"
        self._sync.wait_for_copy(slot)
        self._pieces[index].bind(self._slots[slot])

    def leave(self, index: int) -> None:
        slot = self._slot_of.get(index)
        if slot is None:
            return
        self._sync.computed(slot)
        self._copy_next(slot)

    @contextmanager
    def hooked(self, sweeps: int) -> Iterator[Any]:
        """The module, whose own forward calls its blocks, `sweeps` times."""
        self.begin(sweeps)
        hooks: list[Any] = []
        for index in self._slot_of:
            block = self._blocks[index]
            hooks.append(block.register_forward_pre_hook(lambda *_, i=index: self.enter(i)))
            hooks.append(block.register_forward_hook(lambda *_, i=index: self.leave(i)))
        try:
            yield self.module
        finally:
            for hook in hooks:
                hook.remove()

    def close(self) -> None:
        """Stop copying and free the device's memory; safe in the middle of a sweep."""
        self._sync.close()
        self.before_close()
        self._coming = []
        for piece in (self._rest, *self._pieces):
            piece.unbind()
        self._slots.clear()

    def _copy_next(self, slot: int) -> None:
        index = self._current[slot] = next(self._coming[slot], -1)
        if index < 0:
            return
        self.copies += 1
        self._sync.copy(slot, partial(self._source.fetch, self._pieces[index], self._slots[slot]))


def sweep_together(first: BlockStream, *others: BlockStream) -> Iterator[nn.Module]:
    """The blocks of the first network, each while the same block of the others is on the device too."""
    for block, *_ in zip(first.sweep(), *(other.sweep() for other in others), strict=True):
        yield block


def _nothing() -> None:
    pass
