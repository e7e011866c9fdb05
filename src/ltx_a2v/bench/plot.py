"""Two plots of the results, as PNG and SVG: seconds against peak memory, and where the time goes by phase."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ltx_a2v.bench.case import STANDARD
from ltx_a2v.bench.results import CaseResults
from ltx_a2v.bench.table import phase_seconds
from ltx_a2v.errors import InvalidInput, MissingExtra
from ltx_a2v.media.output_file import write_whole

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7a7a7a", "#b5a400")
"""Of modes; distinguishable also by those who see fewer colours (Okabe and Ito)."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Of budgets."""
_PHASE_COLORS = {
    "encode_prompt": "#8fb1d1",
    "load_transformer": "#33628f",
    "stage_1": "#e69f00",
    "upsample": "#b7d7a8",
    "stage_2": "#d55e00",
    "decode": "#009e73",
    "other": "#c4c4c4",
}
_DARK = ("load_transformer", "stage_2", "decode")
"""Phases whose colors need white letters."""
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "svg.hashsalt": "ltx-a2v",
    "legend.frameon": False,
}


def plot(results: Sequence[CaseResults], source: Path, prefix: Path) -> list[Path]:
    """Write PREFIX-memory and PREFIX-phases as .png and .svg; the paths written.

    Raises `MissingExtra` without matplotlib, `InvalidInput` where nothing was measured, `InvalidOutput` where the files
    cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtra("ltx-a2v bench plot", "bench") from None
    mpl.use("Agg")
    measured = [result for result in results if result.runs]
    if not measured:
        raise InvalidInput(f"{source} holds no measured run to plot; measure one with `ltx-a2v bench run`.")
    written = []
    with mpl.rc_context(_STYLE):
        for name, figure in (("memory", _memory_figure(measured)), ("phases", _phases_figure(measured))):
            for suffix in (".png", ".svg"):
                path = prefix.with_name(f"{prefix.name}-{name}{suffix}")
                write_whole(path, _drawn(figure, suffix))
                written.append(path)
    return written


def _drawn(figure: Any, suffix: str) -> bytes:
    content = io.BytesIO()
    undated = {"Date": None} if suffix == ".svg" else {}
    figure.savefig(content, format=suffix[1:], dpi=160, metadata=undated)
    return content.getvalue()


def _memory_figure(results: list[CaseResults]) -> Any:
    """A panel per size, a point per case; lines connect the budgets of one mode."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shapes = _distinct(map(_shape, results))
    colors = _styles(_COLORS, (result.case.mode for result in results))
    markers = _styles(_MARKERS, (result.case.budget for result in results))
    figure = Figure(figsize=(max(1.6 + 3.3 * len(shapes), 7.0), 4.4), layout="constrained")
    panels = figure.subplots(1, len(shapes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, shape in zip(panels, shapes, strict=True):
        for mode, color in colors.items():
            points = [_point(result) for result in results if (_shape(result), result.case.mode) == (shape, mode)]
            points.sort(key=lambda point: point[0])
            axes.plot([x for x, *_ in points], [y for _, y, *_ in points], color=color, linewidth=1.2, alpha=0.4)
            for x, y, least, most, budget in points:
                axes.errorbar(x, y, [[y - least], [most - y]], color=color, capsize=3, linewidth=1)
                axes.plot(x, y, markers[budget], color=color, markersize=9, markeredgecolor="white")
        axes.set_title(shape, fontsize=10)
        axes.margins(0.1)
    panels[0].set_ylim(bottom=0)
    panels[0].set_xlim(left=0)
    panels[0].set_ylabel("seconds per video")
    figure.supxlabel(f"peak memory of tensors, GiB{'' if _has_peaks(results) else ' (planned)'}", fontsize=10)
    _title(figure, "Seconds against peak memory", results)
    handles = [Line2D([], [], color=color, linewidth=4, label=mode) for mode, color in colors.items()]
    handles += [
        Line2D([], [], color="#555555", marker=marker, linestyle="", markersize=8, label=budget)
        for budget, marker in markers.items()
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _phases_figure(results: list[CaseResults]) -> Any:
    """A stacked bar per case, grouped by size."""
    from matplotlib.figure import Figure

    shapes = _distinct(map(_shape, results))
    places = {id(result): place for place, result in _places(results, shapes)}
    height = max(places.values()) + 1
    figure = Figure(figsize=(9, 1.5 + 0.3 * height), layout="constrained")
    axes = figure.subplots()
    rows = [phase_seconds(result) for result in results]
    at = [places[id(result)] for result in results]
    longest = max(sum(seconds or 0.0 for seconds in row.values()) for row in rows)
    left = [0.0] * len(rows)
    for name, color in _PHASE_COLORS.items():
        widths = [row[name] or 0.0 for row in rows]
        if max(widths) < 0.004 * longest:  # too thin to be seen
            continue
        axes.barh(at, widths, 0.74, left, color=color, label=name.replace("_", " "))
        for place, start, width in zip(at, left, widths, strict=True):
            if width > 0.06 * longest:
                ink = "white" if name in _DARK else "#222222"
                axes.text(start + width / 2, place, f"{width:.3g}", ha="center", va="center", fontsize=8, color=ink)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, end, result in zip(at, left, results, strict=True):
        axes.text(end + 0.01 * longest, place, f"{_point(result)[1]:.3g} s", va="center", fontsize=9)
    axes.set_yticks(at, [f"{result.case.mode}, {result.case.budget}" for result in results])
    for shape in shapes:
        first = min(place for place, result in zip(at, results, strict=True) if _shape(result) == shape)
        axes.text(0.004 * longest, first - 0.95, shape, fontweight="bold", va="center", fontsize=10)
    axes.set_ylim(height - 0.4, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_xlabel("seconds, medians of the runs")
    _title(figure, "Where the time goes", results)
    figure.legend(loc="outside right upper")
    return figure


def _places(results: list[CaseResults], shapes: list[str]) -> Iterator[tuple[int, CaseResults]]:
    """From the top: a place for the name of each size, and below it its cases."""
    place = 0
    for shape in shapes:
        for result in results:
            if _shape(result) == shape:
                place += 1
                yield place, result
        place += 1


def _title(figure: Any, title: str, results: list[CaseResults]) -> None:
    """Followed by the machine and what all results have in common."""
    case = results[0].case
    devices = ", ".join(_distinct(result.device for result in results))
    common = f"{devices}; {case.model},\n{case.frames} frames, {case.steps} steps, {case.start} start"
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontweight="bold", fontsize=12, linespacing=2.6)
    figure.text(0.01, 0.985 - 0.3 / figure.get_figheight(), common, fontsize=8.5, color="#555555", va="top")


def _point(result: CaseResults) -> tuple[float, float, float, float, str]:
    """Peak, median, least and most seconds, budget."""
    memory = result.most("memory", "allocated_gib") or result.most("memory", "predicted_gib") or 0.0
    spread = result.spread("seconds")
    assert spread is not None
    return memory, spread.median, spread.least, spread.most, result.case.budget


def _shape(result: CaseResults) -> str:
    case = result.case
    return case.size if case.quality == STANDARD else f"{case.size}, {case.quality}"


def _has_peaks(results: list[CaseResults]) -> bool:
    return all(result.most("memory", "allocated_gib") for result in results)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _styles(styles: Sequence[str], values: Iterable[str]) -> dict[str, str]:
    """A style for each distinct value; they repeat where there are too few."""
    return dict(zip(_distinct(values), cycle(styles), strict=False))
