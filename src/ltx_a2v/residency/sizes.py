"""Bytes of one network, and where they are under a placement: the arithmetic that plans are made of."""

from __future__ import annotations

from dataclasses import dataclass

from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import spread


@dataclass(frozen=True)
class Sizes:
    """Bytes of one network as stored: everything outside the blocks, and each block.

    `reading` is the temporary device memory for reading and converting the next tensor or block.
    """

    rest: int
    blocks: tuple[int, ...] = ()
    reading: int = 0

    @property
    def total(self) -> int:
        return self.rest + sum(self.blocks)

    def on_device(self, placement: Placement) -> int:
        """Device bytes while the network is in use."""
        resident, streamed = self._divided(placement)
        slots = min(placement.slots, len(streamed)) * max(streamed, default=0)
        return self.rest + sum(resident) + slots

    def upper_bound(self, placement: Placement) -> int:
        """Upper bound on `on_device`, monotonic in resident blocks; equal to it where all blocks are alike."""
        resident, streamed = (len(blocks) for blocks in self._divided(placement))
        slots = min(placement.slots, streamed) * max(self.blocks, default=0)
        return self.rest + sum(sorted(self.blocks)[streamed:] if resident else ()) + slots

    def streamed(self, placement: Placement) -> int:
        """Bytes over the bus per sweep."""
        return sum(self._divided(placement)[1])

    def in_host(self, placement: Placement) -> int:
        """Bytes of copies in host memory."""
        if placement.home != "host":
            return 0
        return self.total if placement.whole_copy else self.streamed(placement)

    def _divided(self, placement: Placement) -> tuple[list[int], list[int]]:
        """Resident and streamed blocks."""
        count = len(self.blocks)
        wanted = count if placement.resident_blocks is None else min(placement.resident_blocks, count)
        resident = spread(count, wanted)
        return [self.blocks[i] for i in sorted(resident)], [b for i, b in enumerate(self.blocks) if i not in resident]
