"""What the driver says, with a stand-in for its library."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx_a2v.hardware.driver import (
    GpuMemory,
    compute_capability,
    driver_version,
    gpu_name,
    memory_holders,
    read_memory,
)
from tests.nvml import GIB


@pytest.mark.parametrize(
    ("visible", "device", "total"),
    [
        (None, None, 96),
        (None, "cuda", 96),
        (None, "cuda:1", 24),
        (None, "cuda:9", None),
        (None, "cpu", None),
        ("1", "cuda", 24),
        ("1,0", "cuda:1", 96),
        ("GPU-2222-bbbb", "cuda", 24),
        ("GPU-22", "cuda:0", 24),
        ("GPU-2222-bbbb, GPU-1111-aaaa", "cuda:1", 96),
        ("MIG-3333", "cuda", 12),
        ("GPU-9999", "cuda", None),
        ("0", "cuda:1", None),
        ("", "cuda", None),
        ("-1", "cuda", None),
    ],
)
def test_the_gpu_that_torch_would_take(
    answers: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str | None, total: int | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    memory = read_memory(device, None)
    assert (memory and memory.total // GIB) == total


def test_what_is_ours(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_memory("cuda", 42) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, 30 * GIB)
    assert read_memory("cuda", None) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, 0)
    assert read_memory("cuda", 4711) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, None), "of another namespace"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3333")
    assert read_memory("cuda", 42) == GpuMemory(12 * GIB, 10 * GIB, 2 * GIB, None)


def test_who_holds_it_and_what_it_can(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_holders("cuda:0") == [(41, 6 * GIB), (42, 30 * GIB), (43, 10 * GIB)]
    assert compute_capability("cuda:0") == (12, 0)
    assert compute_capability("cuda:1") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert memory_holders("cuda") == [(44, GIB)]
    assert memory_holders("cuda:1") == []


def test_its_name(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_name(None) == gpu_name("cuda:0") == "Stand-in GPU-1111-aaaa"
    assert gpu_name("cuda:1") == "Stand-in GPU-2222-bbbb"
    assert gpu_name("cuda:9") is gpu_name("cpu") is None
    assert driver_version() == "580.1"


def test_no_driver(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def fail() -> None:
        raise pynvml.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert read_memory("cuda", None) is None
    assert gpu_name("cuda") is driver_version() is None
