"""What a video would take, by the videos that this server has made.

A job of the same size, length and quality gives its seconds; the guided steps are scaled by their number of passes.
Jobs of other sizes give a rough figure: the phases that grow with the video are scaled by its pixels. Nothing is
guessed without a finished job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from ltx_a2v.serving.jobs.progress import stage_1_passes

Done = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The request and the result of a completed job."""
Source = Literal["this size", "other sizes"]

LAST = 3
"""Jobs of the same size that are looked at: the machine may have changed since older ones."""
GROWING = ("stage_1", "upsample", "stage_2", "decode")
"""Phases whose seconds grow with the video; the others depend on the model's files."""
FAR = 8.0
"""Videos of more times the pixels, or fewer, say nothing: attention grows faster than they do."""
GIB = 2**30


@dataclass(frozen=True)
class ExpectedTime:
    """Seconds until the video is made, without those in the queue; None where nothing is known."""

    seconds: float | None = None
    source: Source | None = None


def expected_time(request: Mapping[str, Any], done: Sequence[Done], is_loaded: bool) -> ExpectedTime:
    """For the fields of a request with a number of frames; `done` are the server's jobs, the last one first."""
    loading = 0.0 if is_loaded else next((_load(result) for _, result in done if _load(result)), 0.0)
    same = [_scaled(request, *job) for job in done if _same_shape(request, job)][:LAST]
    if same:
        return ExpectedTime(round(loading + median(same), 1), "this size")
    others = [job for job in done if _same_quality(request, job) and _is_near(request, job[1])]
    if not others:
        return ExpectedTime()
    nearest = min(others, key=lambda job: max(_growth(request, job[1]), 1 / _growth(request, job[1])))
    return ExpectedTime(round(loading + _scaled(request, *nearest), 1), "other sizes")


def measured_peak(request: Mapping[str, Any], done: Sequence[Done]) -> int | None:
    """Bytes of GPU memory that the last job of the same size took; None where there is none, or no GPU."""
    peaks = [result["peak_vram_gib"] for asked, result in done if _same_shape(request, (asked, result))]
    return round(peaks[0] * GIB) if peaks and peaks[0] > 0 else None


def _scaled(request: Mapping[str, Any], asked: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """Seconds of that job without loading, had it made this request."""
    passes = stage_1_passes(request) / max(stage_1_passes(asked), 1)
    growth = _growth(request, result)
    phases = {name: seconds for name, seconds in result["phases"].items() if name != "load"}
    rest = max(result["elapsed_seconds"] - sum(result["phases"].values()), 0.0)
    return rest + sum(
        seconds * (growth if name in GROWING else 1.0) * (passes if name == "stage_1" else 1.0)
        for name, seconds in phases.items()
    )


def _load(result: Mapping[str, Any]) -> float:
    return float(result["phases"].get("load", 0.0))


def _same_shape(request: Mapping[str, Any], job: Done) -> bool:
    shape = ("width", "height", "num_frames")
    return _same_quality(request, job) and all(request[name] == job[1][name] for name in shape)


def _same_quality(request: Mapping[str, Any], job: Done) -> bool:
    return request.get("quality", "standard") == job[0].get("quality", "standard")


def _is_near(request: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Not too far to tell; lengths are never, as long videos are made in windows."""
    same_frame = all(request[name] == result[name] for name in ("width", "height"))
    return same_frame or 1 / FAR <= _growth(request, result) <= FAR


def _growth(request: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """Pixels of all frames, as a multiple of the job's."""
    pixels, before = (fields["width"] * fields["height"] * fields["num_frames"] for fields in (request, result))
    return float(pixels / before)
