"""Which process computes which passes.

The cost of a set of passes is its block rows: the rows of the batch, summed over all blocks. Passes that share rows are
cheap together (`diffusion/block_plan.py`). For 48 blocks, the 28th of them perturbed:

    positive + perturbed     28 + 2 * 20 = 68      they share a row until block 28
    negative + isolated           2 * 48 = 96      they share half of block 0 only
    all four in one process 28 * 3 + 20 * 4 = 164

So two processes take 68 and 96 rows, at most 164 / 96 = 1.71 times as fast as one; three take 68, 48 and 48 (2.41),
four 48 each (3.42). Text, stage 2 and decoding are not divided.
"""

from __future__ import annotations

from itertools import product

from ltx_a2v.diffusion.block_plan import plan_stage
from ltx_a2v.diffusion.guidance import Pass

Passes = frozenset[Pass]


def split_passes(passes: Passes, perturbed_blocks: frozenset[int], num_blocks: int, count: int) -> tuple[Passes, ...]:
    """`count` sets, one for each process: those whose largest cost is least, then those of the least cost in all.

    The first one has the positive pass. Raises `ValueError` where there are fewer passes than processes.
    """
    if not 1 <= count <= len(passes):
        raise ValueError(f"{len(passes)} passes for {count} processes")
    first, *others = sorted(passes, key=lambda kind: (kind is not Pass.POSITIVE, kind))
    cost = {
        some: block_rows(some, perturbed_blocks, num_blocks)
        for some in {part for split in _splits(first, others, count) for part in split}
    }

    def costs(split: tuple[Passes, ...]) -> tuple[int, int]:
        each = [cost[part] for part in split]
        return max(each), sum(each)

    return min(_splits(first, others, count), key=costs)


def block_rows(passes: Passes, perturbed_blocks: frozenset[int], num_blocks: int) -> int:
    """Rows of the batch after audio-to-video attention, summed over all blocks."""
    return sum(len(block.cross_attention) for block in plan_stage(passes, perturbed_blocks, num_blocks).blocks)


def _splits(first: Pass, others: list[Pass], count: int) -> list[tuple[Passes, ...]]:
    """Every way to give each pass to a process so that none is left without; the first pass goes to the first one."""
    found = []
    for owners in product(range(count), repeat=len(others)):
        owned = [(first, 0), *zip(others, owners, strict=True)]
        parts = tuple(frozenset(kind for kind, owner in owned if owner == process) for process in range(count))
        if all(parts):
            found.append(parts)
    return found
