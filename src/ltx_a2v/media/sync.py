"""How well a mouth follows a sound, from pixels and samples alone.

A drawn or filmed mouth is darker inside than the skin around it: the dark share of the region where the mouth is
measures how far it is open. Compared with the loudness of the sound around each frame's time, it says whether the mouth
follows, how late, and whether it rests in silence. Made for one upright face in the middle of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx_a2v.media.sound.prepare import load_audio

MOUTH_BOX = (-0.48, 0.48, 0.16, 0.80)
"""Left, right, top and bottom of the region, from the picture's centre in halves of its shorter side."""
LOUDNESS_WINDOW = 0.1
"""Seconds around a frame's time."""
QUIET_DB, LOUD_DB = -46.0, -14.0
"""Levels below full scale at which a mouth is closed and wide open."""
SILENT = 0.02
"""Loudness below which a frame counts as silent, of 1."""
FRAMES_AT_ONCE = 512
"""Of which the loudness is computed together: 10 MB of samples."""
CLOSED = 0.15
"""Opening below which a mouth counts as closed, of the clip's widest opening."""


@dataclass(frozen=True)
class Sync:
    correlation: float
    """Pearson's, at the best lag; 0 where mouth or sound never change."""
    lag: int
    """Frames by which the mouth comes after the sound; negative where it comes before."""
    closed_in_silence: float | None
    """Share of the silent frames in which the mouth is closed; None without silent frames."""
    movement: float
    """Standard deviation of the mouth's opening, as a share of the region."""


def measure_sync(
    frames: Tensor, waveform: Tensor, sample_rate: int, frame_rate: float = 24.0, max_lag: int = 2
) -> Sync:
    """`frames`: uint8 [F, H, W, 3]; `waveform`: [C, N] or [N] in [-1, 1], beginning with the first frame."""
    opening = mouth_opening(frames)
    heard = loudness(waveform, sample_rate, len(opening), frame_rate)
    lag = best_lag(opening, heard, max_lag)
    closed = is_closed(opening)[is_silent(heard)]
    share = float(closed.float().mean()) if len(closed) else None
    return Sync(correlation(opening, heard, lag), lag, share, float(opening.std()))


def best_lag(opening: Tensor, heard: Tensor, max_lag: int) -> int:
    """Frames by which the mouth comes after the sound; the smallest of equally good ones."""
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    return max(lags, key=lambda lag: correlation(opening, heard, lag))


def is_silent(heard: Tensor) -> Tensor:
    """[F] bool: no sound in the frame and its neighbours."""
    return F.max_pool1d((heard > SILENT).float()[None], 3, 1, 1)[0] == 0


def is_closed(opening: Tensor, share: float = CLOSED) -> Tensor:
    """[F] bool: opened by less than `share` of the widest opening; False where no mouth was seen (NaN)."""
    seen = opening[~opening.isnan()]
    rest = seen.quantile(0.02)
    return (opening - rest) < share * (seen.max() - rest).clamp(min=0.01)


def mouth_opening(
    frames: Tensor, box: tuple[float, float, float, float] = MOUTH_BOX, skin: Tensor | None = None
) -> Tensor:
    """uint8 [F, H, W, 3] -> [F]: the share of `box` that is much darker than the skin there.

    `skin` is the brightness of the skin as `skin_of` other frames of the same video gave it.
    """
    grey = _grey(frames, box)
    skin = _median(grey) if skin is None else skin
    return ((0.45 - grey / skin) / 0.15).clamp(0, 1).mean(dim=(1, 2))


def skin_of(frames: Tensor) -> Tensor:
    """The brightness of most of the mouth's region: of the skin."""
    return _median(_grey(frames, MOUTH_BOX))


def _median(grey: Tensor) -> Tensor:
    return grey.flatten().median().clamp(min=0.1)


def _grey(frames: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """[F, h, w] in 0..1: the brightness within `box`."""
    height, width = frames.shape[1:3]
    half = min(height, width) / 2
    left, right = (round(width / 2 + edge * half) for edge in box[:2])
    top, bottom = (round(height / 2 + edge * half) for edge in box[2:])
    region = frames[:, max(top, 0) : bottom, max(left, 0) : right].float() / 255
    return region @ torch.tensor([0.3, 0.6, 0.1], device=frames.device)


def loudness(waveform: Tensor, sample_rate: int, frames: int, frame_rate: float = 24.0) -> Tensor:
    """[C, N] or [N] -> [frames] in 0..1: the level around each frame's time on a logarithmic scale."""
    mono = waveform.float().reshape(-1, waveform.shape[-1]).mean(0)
    size = round(LOUDNESS_WINDOW * sample_rate)
    window = torch.hann_window(size, device=mono.device)
    centres = (torch.arange(frames, device=mono.device) * (sample_rate / frame_rate)).round().long()
    padded = F.pad(mono, (size // 2, max(0, int(centres[-1]) + size - len(mono))))
    pieces = padded[centres[:, None] + torch.arange(size, device=mono.device)] * window
    level = 10 * torch.log10(pieces.square().sum(-1) / window.square().sum() + 1e-9)
    return ((level - QUIET_DB) / (LOUD_DB - QUIET_DB)).clamp(0, 1)


def frame_loudness(path: Path, start: float, frames: int, frame_rate: float) -> list[float]:
    """Of the sound from second `start` on, as `loudness` gives it for each frame. Raises `InvalidAudio`."""
    clip = load_audio(path, start, frames / frame_rate)
    mono, rate, levels = clip.waveform.mean(0), clip.sample_rate, list[float]()
    for first in range(0, frames, FRAMES_AT_ONCE):
        count = min(FRAMES_AT_ONCE, frames - first)
        begin, end = (round(frame / frame_rate * rate) for frame in (first, first + count))
        levels += loudness(mono[begin:end], rate, count, frame_rate).tolist()
    return levels


def correlation(opening: Tensor, heard: Tensor, lag: int) -> float:
    """Pearson's, of the opening with what was heard `lag` frames before; frames without a mouth (NaN) are left out.

    0 where one of them never changes.
    """
    n = max(len(opening) - abs(lag), 0)
    mouth, sound = opening[max(lag, 0) :][:n], heard[max(-lag, 0) :][:n]
    mouth, sound = mouth[~mouth.isnan()], sound[~mouth.isnan()]
    if len(mouth) < 2:
        return 0.0
    mouth, sound = mouth - mouth.mean(), sound - sound.mean()
    size = float(mouth.norm() * sound.norm())
    return float(mouth @ sound) / size if size > 1e-9 else 0.0
