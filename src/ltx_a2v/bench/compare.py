"""Two files of results side by side: the ratio of each figure, and whether it exceeds the spread of the runs.

No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ltx_a2v.bench.results import CaseResults, Spread, matching
from ltx_a2v.bench.table import markdown, names_of, shown
from ltx_a2v.errors import InvalidInput

FIGURES: dict[str, tuple[tuple[str, ...], int]] = {
    "whole, s": (("seconds",), 2),
    "step 1, s": (("steps", "stage_1", "median"), 3),
    "step 2, s": (("steps", "stage_2", "median"), 3),
    "decode, s": (("phases", "decode"), 2),
    "tensors, GiB": (("memory", "allocated_gib"), 2),
}
"""What is compared: its place in what a run measured, and its digits."""


def compare(a: Sequence[CaseResults], b: Sequence[CaseResults], names: tuple[Path, Path]) -> str:
    """Raises `InvalidInput` where the files have no case in common."""
    pairs = [(result, other) for result in a if result.runs and (other := matching(b, result.case)) and other.runs]
    if not pairs:
        raise InvalidInput(f"{names[0]} and {names[1]} have no measured combination in common; compare equal sweeps.")
    lines = list(_warnings(pairs, names))
    lines += [f"A: {names[0]}, B: {names[1]}. A figure differs where the ranges of its runs do not overlap.", ""]
    lines += markdown(_rows(pairs))
    missing = len([result for result in a if result.runs]) + len([result for result in b if result.runs])
    missing -= 2 * len(pairs)
    lines += ["", f"{missing} combinations are in one of the files only."] if missing else []
    return "\n".join(lines) + "\n"


def verdict(a: Spread, b: Spread) -> str:
    """Whether B differs from A by more than both spread."""
    if min(a.count, b.count) < 2:
        return "unknown: one run"
    if a.least <= b.most and b.least <= a.most:
        return "within the spread"
    return "less" if b.median < a.median else "more"


def _warnings(pairs: Sequence[tuple[CaseResults, CaseResults]], names: tuple[Path, Path]) -> Iterator[str]:
    devices = [", ".join(dict.fromkeys(pair[side].device for pair in pairs)) for side in (0, 1)]
    if devices[0] != devices[1]:
        yield f"**Different devices**: {names[0]} is of {devices[0]}, {names[1]} of {devices[1]}."
        yield "The ratios compare machines, not versions.\n"


def _rows(pairs: Sequence[tuple[CaseResults, CaseResults]]) -> Iterator[list[str]]:
    yield ["mode", "budget", "size", "figure", "A", "B", "B / A", "B is"]
    for a, b in pairs:
        for figure, (keys, digits) in FIGURES.items():
            of_a, of_b = a.spread(*keys), b.spread(*keys)
            if of_a is None or of_b is None:
                continue
            ratio = f"{of_b.median / of_a.median:.3f}" if of_a.median else "–"
            values = [shown(of_a, digits), shown(of_b, digits), ratio, verdict(of_a, of_b)]
            yield [*names_of(a), a.case.size, figure, *values]
        yield [*names_of(a), a.case.size, "files", "", "", "", "the same" if a.files == b.files else "different bytes"]
