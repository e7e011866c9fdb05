"""Which passes share a row: planned for any set of passes, as few rows as can be, few different plans."""

from __future__ import annotations

from itertools import chain, combinations, pairwise

import pytest

from ltx_a2v.diffusion.block_plan import BlockPlan, plan_stage
from ltx_a2v.diffusion.guidance import Pass

ALL = frozenset(Pass)
SETS = [frozenset(chosen) for chosen in chain.from_iterable(combinations(Pass, n) for n in range(1, 5))]
ISOLATED, POSITIVE, NEGATIVE, PERTURBED = (frozenset({kind}) for kind in Pass)


def test_all_passes_part_where_they_begin_to_differ() -> None:
    plan = plan_stage(ALL, frozenset({28}), 48)
    first, second, perturbed, after = (plan.blocks[i] for i in (0, 1, 28, 29))
    assert (first.self_attention, first.text_attention, first.cross_attention) == ((0,), (0, 0), (0, 0, 1))
    assert second.self_attention == second.text_attention == second.cross_attention == (0, 1, 2)
    assert (perturbed.self_attention, perturbed.attending, perturbed.values_of) == ((0, 1, 2, 1), 3, 1)
    assert (perturbed.texts, perturbed.audio) == ((0, 0, 1, 0), (0, 1, 0))
    assert (after.self_attention, after.attending, after.values_of) == ((0, 1, 2, 3), 4, None)
    assert plan.rows == (ISOLATED, POSITIVE, NEGATIVE, PERTURBED)


def test_blocks_of_one_kind_have_equal_plans() -> None:
    """A CUDA graph is captured per plan."""
    assert len(set(plan_stage(ALL, frozenset({28}), 48).blocks)) == 5
    assert len(set(plan_stage(POSITIVE, frozenset(), 48).blocks)) == 2  # the last one makes no audio


@pytest.mark.parametrize("passes", SETS, ids=str)
@pytest.mark.parametrize("perturbed", [(), (0,), (2,), (0, 1)], ids=str)
def test_every_set_of_passes_is_planned(passes: frozenset[Pass], perturbed: tuple[int, ...]) -> None:
    plan = plan_stage(passes, frozenset(perturbed), 4)
    assert sorted(chain.from_iterable(plan.rows)) == sorted(passes)
    together = ALL - ISOLATED - NEGATIVE - (PERTURBED if perturbed else frozenset())
    assert len(plan.rows) == len(passes) - max(len(passes & together) - 1, 0)
    assert plan.texts == tuple(kind for kind in (Pass.POSITIVE, Pass.NEGATIVE) if _attended(kind, passes))
    for before, block in pairwise((None, *plan.blocks)):
        _check_rows_follow(before, block)


def _attended(text: Pass, passes: frozenset[Pass]) -> bool:
    return Pass.NEGATIVE in passes if text is Pass.NEGATIVE else bool(passes - NEGATIVE)


def _check_rows_follow(before: BlockPlan | None, block: BlockPlan) -> None:
    """Every part of a block takes the rows that the part before it left."""
    rows = len(before.cross_attention) if before else 1
    assert block.attending + (block.values_of is not None) == len(block.self_attention)
    for copies in (block.self_attention, block.text_attention, block.cross_attention):
        assert set(copies) == set(range(rows))
        rows = len(copies)
    assert len(block.texts) == len(block.text_attention)
    assert block.audio is None or len(block.audio) in (1, rows - block.isolated)
