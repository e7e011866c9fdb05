"""Measures in a finished video how the mouth follows the sound: for the whole of it, and part by part.

It tells whether the mouth moves with this sound, how many frames late or early, whether it rests in silence, and where
that changes. It does not tell whether the lips form the right sounds, or whether a person would believe it. Loudness
does not fix how far a mouth opens, so no correlation is a mark by itself: it is compared with what the same mouth gives
for the same sound at wrong times (`by_chance`), and between videos of one face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ltx_a2v.errors import InvalidInput
from ltx_a2v.media import sync
from ltx_a2v.media.faces.landmarks import FaceMeter
from ltx_a2v.media.read_video import each_frame, open_video
from ltx_a2v.media.sound.conditioning import level
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.sync import best_lag, correlation, is_closed, is_silent, loudness, mouth_opening, skin_of

Face = Literal["real", "drawn"]

MAX_LAG_SECONDS = 0.25
SHORTEST_SECONDS = 1.0
CLOSED: dict[Face, float] = {"drawn": sync.CLOSED, "real": 0.25}
"""Share of the widest opening below which a mouth is closed. Landmarks of lips at rest wander by up to a fifth."""
WINDOW_SECONDS = 5.0
SEEN = 0.1
"""Share of the frames that must show a face."""
STILL = 1e-3
"""Standard deviation below which a mouth or a sound does not move, and nothing can be said."""
LONGEST_SIDE = 960
"""Pixels of a frame that is looked at."""
WRONG_TIMES = 500
"""Most that are tried."""
TOGETHER = 64
"""Frames of a drawn face that are measured at a time."""

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Some seconds of a video."""

    start: float
    end: float
    correlation: float | None
    """Pearson's, of the mouth's opening with the loudness, at the video's lag; None where either never changes."""
    lag_frames: int | None
    """The part's own best lag: frames by which the mouth comes after the sound."""
    closed_in_silence: float | None
    """Share of the silent frames in which the mouth is closed; None without any."""
    frames_with_face: int


@dataclass(frozen=True)
class VideoSync:
    """What was measured in one video."""

    face: Face
    frame_rate: float
    whole: Part
    by_chance: float | None
    """What 19 of 20 wrong times of the sound stay below, at least a second away; None for videos under 3 s."""
    parts: tuple[Part, ...]
    opening: Tensor
    """[frames]; NaN where no face was found."""
    heard: Tensor
    """[frames] in 0..1: the sound's level, on a logarithmic scale."""

    def as_json(self) -> dict[str, Any]:
        """Without the values of each frame."""
        return {
            "face": self.face,
            "frames": len(self.opening),
            "frame_rate": self.frame_rate,
            **_rounded(self.whole),
            "by_chance": None if self.by_chance is None else round(self.by_chance, 3),
            "parts": [_rounded(part) for part in self.parts],
        }

    def series(self) -> dict[str, list[float | None]]:
        """The values of each frame; the opening of a drawn mouth is a share of its region, that of a real one a share
        of the distance between the eyes' outer corners."""
        opening = [None if value != value else round(value, 4) for value in self.opening.tolist()]
        return {"opening": opening, "loudness": [round(value, 4) for value in self.heard.tolist()]}


def check_video(path: Path, face: Face = "real", window: float = WINDOW_SECONDS) -> VideoSync:
    """Measure the video in parts of `window` seconds.

    Raises `InvalidInput` (and `InvalidAudio`) for a file that is no video, has no sound, shows no face, or is shorter
    than a second, and `MissingExtra` for a real face without the extra `sync`.
    """
    rate, start = _timing(path)
    opening = torch.tensor(list(_openings(path, face)))
    if len(opening) < SHORTEST_SECONDS * rate:
        raise InvalidInput(f"{path} has {len(opening)} frames: less than a second, in which no sync can be measured.")
    _check_face(path, face, opening)
    clip = load_audio(path, start, len(opening) / rate)
    heard = loudness(level(clip.waveform, clip.sample_rate), clip.sample_rate, len(opening), rate)
    return _compared(face, rate, opening, heard, window)


def _timing(path: Path) -> tuple[float, float]:
    """Frames per second, and the second of the file at which they begin; what has no sound is refused here."""
    with open_video(path) as (container, stream):
        if container.format.name.endswith(("_pipe", "image2")):
            raise InvalidInput(f"{path} is a picture, not a video; give a video with sound.")
        if not container.streams.audio:
            raise InvalidInput(f"{path} has no sound, so there is nothing that its mouth could follow.")
        starts = [float((s.start_time or 0) * (s.time_base or 0)) for s in (stream, container.streams.audio[0])]
        return float(stream.average_rate or stream.guessed_rate or 24), max(0.0, starts[0] - starts[1])


def _openings(path: Path, face: Face) -> Iterator[float]:
    frames = each_frame(path, LONGEST_SIDE)
    if face == "real":
        meter = FaceMeter()
        yield from (meter.opening(frame) for frame in frames)
        return
    skin: Tensor | None = None  # that of the first frames, so that openings can be compared from start to end
    while group := list(islice(frames, TOGETHER)):
        together = torch.from_numpy(np.stack(group))
        skin = skin_of(together) if skin is None else skin
        yield from mouth_opening(together, skin=skin).tolist()


def _check_face(path: Path, face: Face, opening: Tensor) -> None:
    if face == "drawn" and float(opening.max()) == 0:
        raise InvalidInput(
            f"No mouth was found in {path}: a drawn one is darker than the skin, in the middle of the lower half."
        )
    if face == "real" and float((~opening.isnan()).float().mean()) < SEEN:
        raise InvalidInput(f"No face was found in {path}; a drawn one, as the demo's, needs --face drawn.")


def _compared(face: Face, rate: float, opening: Tensor, heard: Tensor, window: float) -> VideoSync:
    max_lag = round(MAX_LAG_SECONDS * rate)
    lag = best_lag(opening, heard, max_lag)
    closed, silent = is_closed(opening, CLOSED[face]), is_silent(heard)

    def part(first: int, end: int) -> Part:
        mouth, sound = opening[first:end], heard[first:end]
        seen = mouth[~mouth.isnan()]
        moves = len(seen) > 2 * max_lag and float(seen.std()) > STILL and float(sound.std()) > STILL
        rests = closed[first:end][silent[first:end] & ~mouth.isnan()]
        return Part(
            start=first / rate,
            end=end / rate,
            correlation=correlation(mouth, sound, lag) if moves else None,
            lag_frames=best_lag(mouth, sound, max_lag) if moves else None,
            closed_in_silence=float(rests.float().mean()) if len(rests) else None,
            frames_with_face=len(seen),
        )

    size = max(round(window * rate), 1)
    edges = [*range(0, len(opening), size), len(opening)]
    if len(edges) > 2 and edges[-1] - edges[-2] < size / 2:
        del edges[-2]  # a short rest belongs to the part before it
    parts = tuple(part(first, end) for first, end in pairwise(edges))
    return VideoSync(face, rate, part(0, len(opening)), _by_chance(opening, heard, rate), parts, opening, heard)


def _by_chance(opening: Tensor, heard: Tensor, rate: float) -> float | None:
    second = round(rate)
    if len(opening) < 3 * second:
        return None
    shifts = range(second, len(opening) - second, max(1, len(opening) // WRONG_TIMES))
    wrong = [correlation(opening, heard.roll(shift), 0) for shift in shifts]
    return float(torch.tensor(wrong).quantile(0.95))


def _rounded(part: Part) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(part).items()}
