"""Two processes of a stage, as two threads of one: they take every step together, and leave it together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.errors import NotFinite
from ltx_a2v.parallel.exchange import Exchange
from ltx_a2v.parallel.sharing import PassSharing, Stopped

CPU = torch.device("cpu")
THREE = frozenset({Pass.POSITIVE, Pass.NEGATIVE, Pass.ISOLATED})
"""Two for one process and one for the other: what is exchanged is padded."""
Act = Callable[[int, int], None]
"""Given rank and step, before the passes of that step are computed."""


def both(folder: Path, act: Act, steps: int = 3) -> list[object]:
    """What either process returns or raises."""
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(one, folder, rank, act, steps) for rank in range(2)]
        return [each.exception(timeout=20) or each.result() for each in running]


def one(folder: Path, rank: int, act: Act, steps: int) -> list[dict[Pass, float]]:
    lost: list[int] = []
    sharing = PassSharing(rank, 2, lambda work: None, lambda: Stopped("another one"), lambda error: lost.append(rank))
    sharing.exchange = Exchange(folder, rank, 2, CPU, lambda: None)
    seen = []
    try:
        with sharing.stage(THREE, frozenset(), 4, steps, None) as share:

            def velocities(latent: Tensor, sigma: Tensor) -> dict[Pass, Tensor]:
                return {kind: latent * sigma + kind for kind in share.own}

            of_all = share.gathered(velocities)
            for step in range(steps):
                act(rank, step)
                given = of_all(torch.ones(1, 2, 3), torch.tensor(float(step)))
                seen.append({kind: float(velocity.mean()) for kind, velocity in given.items()})
    finally:
        assert not lost
        sharing.exchange.close()
    return seen


def test_every_process_has_the_velocities_of_all_passes(tmp_path: Path) -> None:
    expected = [{kind: float(step + kind) for kind in THREE} for step in range(3)]
    assert both(tmp_path, lambda rank, step: None) == [expected, expected]


@pytest.mark.parametrize("failing", [0, 1])
def test_all_run_out_of_memory_together(tmp_path: Path, failing: int) -> None:
    def act(rank: int, step: int) -> None:
        if (rank, step) == (failing, 1):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert [type(error) for error in both(tmp_path, act)] == [torch.OutOfMemoryError] * 2


def test_a_failure_stops_the_other_one(tmp_path: Path) -> None:
    def act(rank: int, step: int) -> None:
        if (rank, step) == (1, 2):
            raise NotFinite("damaged")

    assert [type(error) for error in both(tmp_path, act)] == [Stopped, NotFinite]


def test_nobody_waits_for_one_that_leaves_after_the_last_exchange(tmp_path: Path) -> None:
    def act(rank: int, step: int) -> None:
        if (rank, step) == (0, 3):
            raise KeyboardInterrupt

    stopped = both(tmp_path, act, steps=3)
    assert all(isinstance(each, list) for each in stopped)
