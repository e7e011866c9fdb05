"""Which linears of which network are quantized: the one registry that both sides of a policy read.

Covered are the large linears inside the blocks, as in the reference. Everything a small error would steer the whole
network through (gates, AdaLN, norms, projections in and out) keeps its dtype.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ltx_a2v.errors import InvalidMode

MAX_BLOCKS = 1000
"""Far above any network's depth: a slip in a range is an error, not a list of a billion numbers."""


@dataclass(frozen=True)
class CoveredLayers:
    """Those of one network, by their names in its module."""

    blocks: str
    """The name of the list of blocks."""
    suffixes: tuple[str, ...]
    outside: tuple[str, ...] = ()
    """Covered layers outside the blocks, by full name."""
    keeps_blocks: bool = False
    """Whether a list of blocks to keep in bf16 means this network's blocks."""

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


_ATTENTION_AND_FEED_FORWARD = (
    ".to_q",
    ".to_k",
    ".to_v",
    ".to_out.0",
    "ff.net.0.proj",  # no leading dot: audio_ff too
    "ff.net.2",
)

TRANSFORMER = CoveredLayers("transformer_blocks", _ATTENTION_AND_FEED_FORWARD, keeps_blocks=True)
CONNECTORS = CoveredLayers(
    "transformer_blocks", _ATTENTION_AND_FEED_FORWARD, outside=("video_text_proj_in", "audio_text_proj_in")
)
TEXT_ENCODER = CoveredLayers(
    "layers", (".q_proj", ".k_proj", ".v_proj", ".o_proj", ".gate_proj", ".up_proj", ".down_proj")
)


def parse_blocks(text: str) -> frozenset[int]:
    """`"0,43-47"` -> {0, 43, 44, 45, 46, 47}; empty text is no blocks."""
    blocks: set[int] = set()
    for part in text.split(",") if text.strip() else []:
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < MAX_BLOCKS:
            raise InvalidMode(
                f"{text!r} is not a list of blocks: give numbers and ranges from low to high, as 0,43-47."
            )
        blocks.update(range(first, last + 1))
    return frozenset(blocks)
