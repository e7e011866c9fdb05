"""Random clips: who, what they are told to look like, what they hear, and how they therefore move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from faces import BACKGROUNDS, FRAME_RATE, Faces, Motion, make_faces, make_motion, render
from sounds import Sounds, mouth_curves
from torch import Tensor


@dataclass
class Clips:
    faces: Faces
    motion: Motion
    sound: Tensor
    """[B, n] at 16 kHz, as long as the clip."""
    attributes: Tensor
    """[B, 3]: background, mood (0 neutral, 1 smiling, 2 sad), gaze (0 ahead, 1 left, 2 right)."""

    def render(self, height: int, width: int, rows: slice = slice(None), frames: slice = slice(None)) -> Tensor:
        return render(self.faces[rows], self.motion[rows, frames], height, width)


OPENED, CLOSING = 0.3, 5
"""Share of the clips whose first picture may show an open mouth, and the frames until it has closed: a user's picture
need not fit the sound's beginning."""


def opened_at_first(opening: Tensor, generator: torch.Generator) -> Tensor:
    """[B, frames]: where the sound begins softly, the mouth of some clips is open all the same and closes."""
    count, frames = opening.shape
    widest = torch.rand(count, 1, generator=generator) * (torch.rand(count, 1, generator=generator) < OPENED)
    return torch.maximum(opening, widest * (1 - torch.arange(frames) / CLOSING).clamp(min=0))


def draw_clips(
    sounds: Sounds, count: int, frames: int, seed: int, only_speech: bool = False, attributes: Tensor | None = None
) -> Clips:
    device = sounds.device
    here, there = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    if attributes is None:
        attributes = torch.stack([torch.randint(n, (count,), generator=here) for n in (len(BACKGROUNDS), 3, 3)], dim=1)
    sound = sounds.draw(count, frames / FRAME_RATE, there, only_speech)
    opening, width, loudness = (curve.cpu() for curve in mouth_curves(sound, frames))
    if not only_speech:
        opening = opened_at_first(opening, here)
    mood = torch.tensor([0.0, 1.0, -1.0])[attributes[:, 1]]
    gaze = torch.tensor([0.0, -1.0, 1.0])[attributes[:, 2]]
    faces = make_faces(attributes[:, 0], here)
    motion = make_motion(opening, width, loudness, mood, gaze, here)
    return Clips(faces.to(device), motion.to(device), sound, attributes)
