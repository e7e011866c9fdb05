"""Who computes which passes."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.parallel.split import block_rows, split_passes

ALL = frozenset(Pass)
PERTURBED = frozenset({28})
"""Of the 48 blocks of LTX-2.3."""


@pytest.mark.parametrize(("count", "rows"), [(1, [164]), (2, [68, 96]), (3, [68, 48, 48]), (4, [48, 48, 48, 48])])
def test_passes_that_share_rows_stay_together(count: int, rows: list[int]) -> None:
    split = split_passes(ALL, PERTURBED, 48, count)
    assert [block_rows(part, PERTURBED, 48) for part in split] == rows
    assert Pass.POSITIVE in split[0]


def test_two_processes_keep_the_perturbed_pass_with_the_positive_one() -> None:
    assert split_passes(ALL, PERTURBED, 48, 2) == ({Pass.POSITIVE, Pass.PERTURBED}, {Pass.NEGATIVE, Pass.ISOLATED})


def test_every_pass_has_one_process_and_every_process_a_pass() -> None:
    for passes in chain.from_iterable(combinations(Pass, size) for size in range(1, 5)):
        for count in range(1, len(passes) + 1):
            split = split_passes(frozenset(passes), frozenset({0}), 4, count)
            assert sorted(kind for part in split for kind in part) == sorted(passes)
            assert all(split)
            assert len(split) == count


def test_more_processes_than_passes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="1 passes for 2 processes"):
        split_passes(frozenset({Pass.POSITIVE}), frozenset(), 48, 2)
