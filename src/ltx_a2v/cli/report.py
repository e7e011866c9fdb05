"""What `generate` and `demo` print when they are done."""

from __future__ import annotations

import argparse
import json

from ltx_a2v.cli.check import as_line
from ltx_a2v.cli.output import write_out
from ltx_a2v.errors import A2VError
from ltx_a2v.events import PHASE_TITLES, GenerationResult

SHORTEST = 0.05
"""Seconds of a phase that is worth saying."""


def add_report_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", choices=("text", "json"), default="text", help="what to print when done")


def print_report(result: GenerationResult, kind: str) -> None:
    """Raises `A2VError`, which says that the video is complete, where stdout takes nothing."""
    try:
        write_out(json.dumps(result.as_json()) + "\n" if kind == "json" else _as_text(result))
    except A2VError as error:
        raise A2VError(f"{error.template} The video is complete: {result.output_path}.") from error


def _as_text(result: GenerationResult) -> str:
    seconds = result.num_frames / result.frame_rate
    predicted = result.details.get("predicted", {})
    said = {name: f" (predicted {seconds:.1f})" for name, seconds in predicted.items()}
    phases = "; ".join(
        f"{PHASE_TITLES[name]} {took:.1f}{said.get(name, '')}"
        for name, took in result.phases.items()
        if took >= SHORTEST or name in said
    )
    notes = "".join(f"note: {notice}\n" for notice in result.notices)
    plan = f"plan: {result.details['plan']}\n" if "plan" in result.details else ""
    sync = result.details.get("sync", {})
    measured = f"sync: {as_line(sync, result.frame_rate)}\n" if "lag_frames" in sync else ""
    peak = f"; peak VRAM {result.peak_vram_gib:.2f} GiB" if result.peak_vram_gib else ""
    return (
        f"{result.output_path}: {result.width}x{result.height}, {result.num_frames} frames ({seconds:.2f} s), "
        f"seed {result.seed}, quality {result.quality}\n"
        f"{result.elapsed_seconds:.1f} s: {phases}{peak}\n{plan}{measured}{notes}"
    )
