"""What `ltx-a2v check` measured, drawn over time: the mouth above the sound, and below them each part's correlation."""

from __future__ import annotations

import io
from typing import Any

from ltx_a2v.errors import MissingExtra
from ltx_a2v.media.check import VideoSync
from ltx_a2v.media.faces.landmarks import EXTRA

MOUTH, SOUND, UNSEEN, QUIET = "#c0392b", "#9db7d5", "#eeeeee", "#777777"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def check_plot() -> None:
    """Raises `MissingExtra` without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtra("A plot of the sync", EXTRA) from None
    mpl.use("Agg")


def plot_sync(sync: VideoSync, title: str) -> bytes:
    """A PNG. Raises `MissingExtra` without matplotlib."""
    check_plot()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        seconds = len(sync.opening) / sync.frame_rate
        figure = Figure(figsize=(min(max(8.0, seconds * 0.8), 24.0), 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_curves(above, sync)
        _draw_parts(below, sync)
        below.set_xlabel("seconds")
        below.set_xlim(0, seconds)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()


def _draw_curves(axes: Any, sync: VideoSync) -> None:
    """Opening from its least to its most; the sound moved to the video's lag."""
    lag = sync.whole.lag_frames or 0
    times = [index / sync.frame_rate for index in range(len(sync.opening))]
    unseen = sync.opening.isnan()
    seen = sync.opening[~unseen]
    least, most = float(seen.min()), float(seen.max())
    scaled = (sync.opening - least) / max(most - least, 1e-6)
    moved = [time + lag / sync.frame_rate for time in times]
    axes.fill_between(moved, sync.heard.tolist(), color=SOUND, linewidth=0, label="loudness of the sound")
    axes.plot(times, scaled.tolist(), color=MOUTH, linewidth=1.3, label="opening of the mouth")
    if unseen.any():
        axes.fill_between(times, 0, 1, where=unseen.tolist(), color=UNSEEN, linewidth=0, label="no face found")
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 1], ["closed, silent", "widest, loud"])
    if lag:
        axes.set_title(f"sound drawn {lag:+d} frames later: the mouth's lag", fontsize=9, loc="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def _draw_parts(axes: Any, sync: VideoSync) -> None:
    """A bar per part at the video's lag; the part's own lag where it differs."""
    for part in sync.parts:
        middle, width = (part.start + part.end) / 2, (part.end - part.start) * 0.92
        if part.correlation is None:
            axes.text(middle, 0.05, "nothing moves", ha="center", fontsize=8, color=QUIET)
            continue
        axes.bar(middle, part.correlation, width, color=MOUTH, alpha=0.75)
        own = "" if part.lag_frames == sync.whole.lag_frames else f"\nbest at {part.lag_frames:+d}"
        height = max(part.correlation, 0.0)
        axes.text(middle, height + 0.02, f"{part.correlation:.2f}{own}", ha="center", va="bottom", fontsize=8)
    if sync.by_chance is not None:
        axes.axhline(sync.by_chance, color=QUIET, linestyle="--", linewidth=1)
        at = axes.get_yaxis_transform()  # to the right of the last part
        axes.text(1.01, sync.by_chance, "at wrong\ntimes", transform=at, fontsize=8, color=QUIET, va="center")
    least = min([0.0, *(part.correlation for part in sync.parts if part.correlation is not None)])
    axes.set_ylim(least * 1.1, 1.3)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("correlation")
