"""Which cases are measured, and in which order."""

from __future__ import annotations

from ltx_a2v.bench.busy import seconds_of
from ltx_a2v.bench.case import Sweep, by_group


def test_the_first_size_of_every_mode_and_budget_comes_first() -> None:
    sweep = Sweep(("int8", "none"), ("unlimited", "6GiB"), ("768x512", "1280x768"), ("standard",), 97, 30, "warm")
    cases = sweep.cases("ltx.safetensors", {})
    assert [case.size for case in cases] == ["768x512"] * 4 + ["1280x768"] * 4
    assert [case.group for case in cases[:4]] == [
        ("int8", "unlimited"),
        ("int8", "6GiB"),
        ("none", "unlimited"),
        ("none", "6GiB"),
    ]


def test_weights_are_read_at_most_twice() -> None:
    sizes = ("768x512", "1024x768", "1280x768", "1024x1024")
    cases = Sweep(("int8", "none"), ("unlimited", "6GiB"), sizes, ("standard",), 97, 30, "warm").cases("ltx", {})
    assert len(cases) == len(set(cases)) == 16
    assert len(by_group(cases)) == 8


def test_overlapping_kernels_count_once_and_copies_not_at_all() -> None:
    spans = [("gemm", 0.0, 2.0), ("norm", 1.0, 3.0), ("Memcpy HtoD (Pinned -> Device)", 0.0, 9.0), ("gemm", 5.0, 6.0)]
    assert seconds_of(spans) == {"kernel_seconds": 4.0, "copy_seconds": 9.0}
    assert seconds_of([("Memcpy HtoD", 0.0, 1.0)]) == {"kernel_seconds": None, "copy_seconds": None}
