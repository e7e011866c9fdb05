"""Matches the names of the linears that are quantized; both sides of a policy use it.

The lists of covered layers belong to the model's version (`versions`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ltx_a2v.versions import NEWEST, CoveredLayers


@dataclass(frozen=True)
class Coverage:
    """Matches the covered layers of one network by their names in its module."""

    blocks: str
    """The name of the list of blocks."""
    suffixes: tuple[str, ...]
    outside: tuple[str, ...] = ()
    """Covered layers outside the blocks, by full name."""
    keeps_blocks: bool = False
    """Whether a list of blocks to keep in bf16 means this network's blocks."""

    @classmethod
    def of(cls, covered: CoveredLayers, keeps_blocks: bool = False) -> Coverage:
        return cls(covered.blocks, covered.suffixes, covered.outside, keeps_blocks)

    def covers(self, layer: str, keep_bf16_blocks: frozenset[int] = frozenset()) -> bool:
        if layer in self.outside:
            return True
        block = self.block_of(layer)
        if block is None or not layer.endswith(self.suffixes):
            return False
        return not (self.keeps_blocks and block in keep_bf16_blocks)

    def block_of(self, layer: str) -> int | None:
        found = re.search(rf"(?:^|\.){re.escape(self.blocks)}\.(\d+)\.", layer)
        return int(found[1]) if found else None


TRANSFORMER = Coverage.of(NEWEST.covered.transformer, keeps_blocks=True)
CONNECTORS = Coverage.of(NEWEST.covered.connectors)
TEXT_ENCODER = Coverage.of(NEWEST.covered.text_encoder)
"""Of the newest version; a model that is opened has those of its own."""
