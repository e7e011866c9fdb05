"""Long videos are made in windows, one after the other, each with what the one before handed on.

    window 0   |-------------------|
    window 1                  |-------------------|            overlap: frames that both windows show
    window 2                                 |-------------------|

All windows of a video have the same length, so that one plan and one set of CUDA graphs serve them all. Where a window
begins is moved towards a pause in the speech, as far as that length leaves room.

What a window gets from the one before is `HandedOn`: the pixels of the overlap, which hold its first frames, and the
colours of the first window. The request's picture is shown to every window as well. Pixels and not latents, because a
window's first latent stands for one frame and every other for eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx_a2v.networks.video_vae import ChannelStatistics

CROSSFADE = 8
"""Frames at the end of an overlap in which the old picture becomes the new one."""
GUARD = 8
"""Frames after a window that are made and cut: users report artifacts in the last latent frame."""
PAUSE_REACH = 24
"""Frames by which windows are longer than they need to be, so that their beginning can be moved to a pause."""
STEP = 8
"""Frames of a latent frame: windows begin at multiples of it."""


@dataclass(frozen=True)
class Window:
    """One window of a video. All numbers are frames of the video."""

    index: int
    start: int
    frames: int
    """That are computed, guard frames included; 8k+1."""
    overlap: int
    """Its first frames, which the window before made; 0 for the first window."""
    written_from: int
    """The first frame that comes from this window alone or is faded into it."""
    written_to: int
    """After the last frame that is written with this window."""
    hands_on: range
    """The frames that the next window shows too; empty for the last window."""

    @property
    def writes(self) -> int:
        """How many frames are written with this window."""
        return self.written_to - self.written_from


@dataclass(frozen=True)
class HandedOn:
    """What a window gets from the one before it."""

    frames: Tensor
    """The overlap: uint8 RGB [overlap, H, W, 3], on the CPU."""
    colours: ChannelStatistics
    """Of the first window's latent, on the CPU."""


def plan_windows(
    total: int, longest: int, overlap: int, guard: int, loudness: Sequence[float] | None = None
) -> tuple[Window, ...]:
    """The windows of a video of `total` frames, each of at most `longest` frames without its guard frames.

    `loudness` of each frame says where pauses are; without it windows begin at equal distances. `longest`, `overlap`
    and `total` are 8k+1, and `longest` is above `overlap`.
    """
    if total <= longest:
        return (Window(0, 0, total + guard, 0, 0, total, range(0)),)
    count = -(-(total - overlap) // (longest - overlap))
    even = -(-(total - overlap) // (count * STEP)) * STEP
    stride = min(even + PAUSE_REACH, longest - overlap)
    starts = [0]
    for index in range(1, count):
        latest = starts[-1] + stride
        earliest = max(starts[-1] + STEP, total - overlap - (count - index) * stride)
        wanted = min(max(index * (total - overlap) // count, earliest), latest)
        starts.append(_quietest(range(-(-earliest // STEP) * STEP, latest + 1, STEP), wanted, overlap, loudness))
    joins = [start + overlap - CROSSFADE for start in starts[1:]]
    return tuple(
        Window(
            index=index,
            start=start,
            frames=stride + overlap + guard,
            overlap=overlap if index else 0,
            written_from=joins[index - 1] if index else 0,
            written_to=joins[index] if index + 1 < count else total,
            hands_on=range(starts[index + 1], starts[index + 1] + overlap) if index + 1 < count else range(0),
        )
        for index, start in enumerate(starts)
    )


def _quietest(starts: range, wanted: int, overlap: int, loudness: Sequence[float] | None) -> int:
    """The start whose crossfade is the quietest; of equal ones the nearest to `wanted`."""

    def loud(start: int) -> float:
        faded = () if loudness is None else loudness[start + overlap - CROSSFADE : start + overlap]
        return max(faded, default=0.0)

    return min(starts, key=lambda start: (round(loud(start), 2), abs(start - wanted)))


class Cut:
    """Cuts decoded pieces of a window, given first to last, into the frames that are used."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._begin = window.start
        self._faded = range(window.written_from, window.written_from + (CROSSFADE if window.overlap else 0))
        self._plain = range(self._faded.stop, window.written_to)

    def parts(self, piece: Tensor) -> tuple[range, Tensor, Tensor, Tensor]:
        """Of [1, 3, n, H, W]: which frames of the window are faded into, these frames, those that are written as they
        are, and those that are handed on."""
        here = range(self._begin, self._begin + piece.shape[2])
        self._begin = here.stop
        faded, plain, handed = (_common(here, part) for part in (self._faded, self._plain, self._window.hands_on))
        cuts = [piece[:, :, part.start - here.start : part.stop - here.start] for part in (faded, plain, handed)]
        start = self._window.start
        return range(faded.start - start, faded.stop - start), cuts[0], cuts[1], cuts[2]

    def fade(self, frames: range, old: Tensor, new: Tensor) -> Tensor:
        """Two takes of the window's `frames`, uint8 [n, H, W, 3], from the old to the new one."""
        first = self._faded.start - self._window.start
        weights = (torch.arange(frames.start, frames.stop) - first + 1) / (CROSSFADE + 1)
        return torch.lerp(old.float(), new.float(), weights.view(-1, 1, 1, 1)).round().to(torch.uint8)


def _common(one: range, other: range) -> range:
    start = min(max(one.start, other.start), one.stop)
    return range(start, max(start, min(one.stop, other.stop)))


def statistics_of(latent: Tensor) -> ChannelStatistics:
    """Mean and deviation of each channel of [1, C, F, H, W]."""
    flat = latent.float().transpose(0, 1).flatten(1)
    return ChannelStatistics(flat.mean(1), flat.std(1))


def with_colours(latent: Tensor, wanted: ChannelStatistics, share: float) -> Tensor:
    """The latent with its channels' mean and deviation moved towards the wanted ones by `share`."""
    known = statistics_of(latent)
    mean, std = (torch.lerp(a, b, share) for a, b in ((known.mean, wanted.mean), (known.std, wanted.std)))
    return ChannelStatistics(mean, std).denormalize(known.normalize(latent))
