"""The allocator keeps the budget on a GPU, whatever happens meanwhile."""

from __future__ import annotations

import pytest
import torch

from ltx_a2v.hardware import budget
from ltx_a2v.hardware.budget import capped


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """What torch's allocator of a stand-in for a GPU of 16 GiB is told: share and device."""
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(budget, "total_memory", lambda device: 16 * 2**30)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append((share, device))
    )
    return told


def test_the_allocator_is_told_the_limit_and_told_again_afterwards(fractions: list[tuple[float, int]]) -> None:
    with pytest.raises(torch.OutOfMemoryError), capped(torch.device("cuda:1"), 4 * 2**30):
        raise torch.OutOfMemoryError
    assert fractions == [(0.25, 1), (1.0, 1)]


def test_more_than_there_is_is_all_of_it(fractions: list[tuple[float, int]]) -> None:
    with capped(torch.device("cuda"), 32 * 2**30):
        assert fractions == [(1.0, 0)]


def test_without_a_limit_or_a_gpu_nothing_is_told(fractions: list[tuple[float, int]]) -> None:
    with capped(torch.device("cuda"), None), capped(torch.device("cpu"), 2**30):
        assert fractions == []
