"""Drawn talking faces: a clip is a table of numbers per face and per frame, painted in batches by torch.

Lengths are in halves of the shorter side, from the picture's centre; y points down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME_RATE = 24.0
BACKGROUNDS = {
    "blue": (0.30, 0.50, 0.82),
    "green": (0.36, 0.66, 0.42),
    "red": (0.80, 0.36, 0.34),
    "yellow": (0.93, 0.80, 0.42),
    "purple": (0.58, 0.42, 0.74),
    "grey": (0.62, 0.65, 0.68),
}
EXPRESSIONS = ("neutral", "smiling", "sad")
GAZES = ("ahead", "left", "right")
MOUTH_BOX = (-0.48, 0.48, 0.16, 0.80)
"""Left, right, top, bottom of where mouths are."""
EYES_BOX = (-0.55, 0.55, -0.42, 0.06)

_SKINS = torch.tensor(
    [[0.98, 0.83, 0.70], [0.94, 0.75, 0.60], [0.87, 0.66, 0.50], [0.74, 0.53, 0.38], [0.62, 0.43, 0.31]]
)
_HAIRS = torch.tensor(
    [
        [0.16, 0.11, 0.09],
        [0.33, 0.20, 0.12],
        [0.55, 0.33, 0.16],
        [0.85, 0.66, 0.34],
        [0.72, 0.33, 0.16],
        [0.55, 0.55, 0.58],
    ]
)
_SHIRTS = torch.tensor(
    [
        [0.22, 0.30, 0.48],
        [0.60, 0.22, 0.28],
        [0.20, 0.46, 0.42],
        [0.85, 0.84, 0.80],
        [0.32, 0.30, 0.34],
        [0.86, 0.58, 0.26],
    ]
)
_IRISES = torch.tensor([[0.28, 0.18, 0.10], [0.20, 0.42, 0.60], [0.25, 0.45, 0.28], [0.36, 0.36, 0.40]])


@dataclass
class Faces:
    """Who they are; every tensor is [B, ...]."""

    background: Tensor
    """[B, 3]"""
    skin: Tensor
    hair: Tensor
    shirt: Tensor
    iris: Tensor
    lips: Tensor
    style: Tensor
    """[B, 12] in 0..1: sizes and places of features."""
    light: Tensor
    """[B, 2]: where the background is brighter."""

    def to(self, device: torch.device | str) -> Faces:
        return Faces(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __getitem__(self, rows: Tensor | slice) -> Faces:
        return Faces(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass
class Motion:
    """What they do; every tensor is [B, frames]."""

    opening: Tensor
    """0 closed to 1 wide open."""
    width: Tensor
    """0 round to 1 spread."""
    blink: Tensor
    """1 when the eyes are shut."""
    brow: Tensor
    x: Tensor
    y: Tensor
    roll: Tensor
    turn: Tensor
    """-1 left to 1 right, of head and eyes."""
    mood: Tensor
    """-1 sad to 1 smiling."""

    def to(self, device: torch.device | str) -> Motion:
        return Motion(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def __getitem__(self, rows: Tensor | slice | tuple) -> Motion:
        return Motion(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def make_faces(background: Tensor, generator: torch.Generator) -> Faces:
    """`background` [B]: indices into `BACKGROUNDS`; the rest is drawn. Needs a CPU generator."""
    count = len(background)

    def pick(table: Tensor, spread: float) -> Tensor:
        chosen = table[torch.randint(len(table), (count,), generator=generator)]
        return (chosen + spread * (torch.rand(count, 3, generator=generator) - 0.5)).clamp(0.03, 1)

    colours = torch.tensor(list(BACKGROUNDS.values()))[background]
    colours = (colours + 0.12 * (torch.rand(count, 3, generator=generator) - 0.5)).clamp(0, 1)
    blend = torch.rand(count, 1, generator=generator)
    skin = pick(_SKINS, 0.06)
    lips = skin * torch.tensor([0.86, 0.52, 0.50]) + blend * torch.tensor([0.06, -0.04, -0.02])
    return Faces(
        background=colours,
        skin=skin,
        hair=pick(_HAIRS, 0.06),
        shirt=pick(_SHIRTS, 0.1),
        iris=pick(_IRISES, 0.06),
        lips=lips.clamp(0.05, 1),
        style=torch.rand(count, 12, generator=generator),
        light=torch.rand(count, 2, generator=generator) * 2 - 1,
    )


def make_motion(
    opening: Tensor, width: Tensor, loudness: Tensor, mood: Tensor, gaze: Tensor, generator: torch.Generator
) -> Motion:
    """`opening`, `width`, `loudness` [B, frames] come from the sound; `mood`, `gaze` [B] in {-1, 0, 1} from the text.

    Half of the clips start neutral and turn to what the text says within their first second. Head and brows follow the
    slow loudness; blinks and sway are drawn. Needs a CPU generator.
    """
    count, frames = opening.shape
    seconds = torch.arange(frames) / FRAME_RATE

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def sway(size: float) -> Tensor:
        rate, phase = 0.12 + 0.2 * draw(count, 1), 2 * math.pi * draw(count, 1)
        return size * torch.sin(2 * math.pi * rate * seconds + phase)

    turning = (draw(count, 1) < 0.5).float()
    ramp = ((seconds - 0.1 - 0.4 * draw(count, 1)) / 0.5).clamp(0, 1)
    ramp = 1 - turning * (1 - ramp * ramp * (3 - 2 * ramp))
    period, phase = 2.2 + 2.5 * draw(count, 1), 5 * draw(count, 1)
    since = torch.remainder(seconds + phase, period)
    blink = (1 - (since - 0.11).abs() / 0.11).clamp(0, 1) * 1.6
    slow = smooth(loudness, 17)
    place = 0.24 * (draw(count, 2) - 0.5)
    return Motion(
        opening=opening,
        width=width,
        blink=blink.clamp(0, 1),
        brow=slow + sway(0.15),
        x=sway(0.025) + place[:, :1],
        y=0.035 * slow + sway(0.012) + 0.4 * place[:, 1:],
        roll=sway(0.025),
        turn=gaze[:, None] * ramp + sway(0.1),
        mood=mood[:, None] * ramp,
    )


def smooth(values: Tensor, taps: int) -> Tensor:
    """[B, frames] under a Hann window of `taps` frames (odd), the ends repeated."""
    window = torch.hann_window(taps + 2, periodic=False, device=values.device)[1:-1]
    padded = F.pad(values[:, None], (taps // 2, taps // 2), mode="replicate")
    return F.conv1d(padded, (window / window.sum())[None, None])[:, 0]


def render(faces: Faces, motion: Motion, height: int, width: int) -> Tensor:
    """[B, 3, frames, height, width] in [-1, 1]."""
    device, short = faces.style.device, min(height, width)
    pixel = 2.0 / short
    y = (torch.arange(height, device=device) + 0.5 - height / 2) * pixel
    x = (torch.arange(width, device=device) + 0.5 - width / 2) * pixel
    paint = _Canvas(x[None, None, None, :], y[None, None, :, None], pixel)
    s = [value[:, None, None, None] for value in faces.style.unbind(1)]
    m = {field.name: getattr(motion, field.name)[:, :, None, None] for field in fields(motion)}

    _background(paint, faces, motion.opening.shape)
    head_x, head_y = m["x"], m["y"] + 0.02
    shoulders = paint.ellipse(head_x * 0.4, 1.22 + 0 * head_y, 0.86 + 0.16 * s[0], 0.52)
    paint.fill(shoulders, faces.shirt)
    paint.at(head_x, head_y + 0.2, m["roll"])
    face_w, face_h = 0.56 + 0.08 * s[1], 0.72 + 0.06 * s[2]
    jaw = 0.05 * m["opening"]
    long_hair = (s[3] > 0.5).float()
    paint.fill(paint.ellipse(0, -0.30 + 0.22 * long_hair, face_w + 0.13, 0.66 + 0.22 * long_hair), faces.hair * 0.82)
    paint.fill(paint.box(0, 0.66, 0.20, 0.30), faces.skin * 0.80)
    ears = paint.both(lambda side: paint.ellipse(side * face_w, -0.18, 0.09, 0.14))
    paint.fill(ears, faces.skin * 0.90)
    head = paint.ellipse(0, -0.14 + jaw / 2, face_w, face_h + jaw / 2)
    paint.fill(head, faces.skin, shade=1.03 - 0.16 * ((paint.u / face_w) ** 2 + ((paint.v + 0.2) / face_h) ** 2))
    turn = 0.055 * m["turn"]
    for side in (-1, 1):
        cheek = paint.soft_spot(side * 0.33 + turn, 0.14, 0.17)
        paint.mix(0.22 * cheek, faces.lips)
    _hair(paint, faces, s, face_w, face_h)
    _eyes(paint, faces, m, s, turn)
    paint.fill(paint.ellipse(turn * 1.5, 0.06, 0.055 + 0.02 * s[4], 0.045), faces.skin * 0.84)
    _mouth(paint, faces, m, s, turn)
    return paint.colours.clamp(0, 1) * 2 - 1


def _background(paint: _Canvas, faces: Faces, shape: torch.Size) -> None:
    glow = torch.exp(
        -((paint.x - faces.light[:, 0, None, None, None]) ** 2 + (paint.y - faces.light[:, 1, None, None, None]) ** 2)
        / 1.6
    )
    brightness = 0.80 + 0.34 * glow
    colours = faces.background[:, :, None, None, None] * brightness[:, None]
    height, width = paint.y.shape[2], paint.x.shape[3]
    paint.colours = colours.expand(shape[0], 3, shape[1], height, width).clone()


def _hair(paint: _Canvas, faces: Faces, s: list[Tensor], face_w: Tensor, face_h: Tensor) -> None:
    """A cap over the head, cut off by a curved fringe."""
    cap = paint.ellipse(0, -0.20, face_w + 0.06, face_h + 0.03)
    fringe = -0.52 + 0.10 * s[5] + (0.5 + 0.5 * s[6]) * paint.u**2 + (s[7] - 0.5) * 0.5 * paint.u
    above = paint.coverage(paint.v - fringe)
    paint.mix(cap * above, faces.hair, shade=1.0 + 0.25 * (-paint.v - 0.6))


def _eyes(paint: _Canvas, faces: Faces, m: dict[str, Tensor], s: list[Tensor], turn: Tensor) -> None:
    apart, size = 0.235 + 0.03 * s[8], 0.105 + 0.02 * s[9]
    lid = (1 - m["blink"]).clamp(0.06, 1)
    for side in (-1, 1):
        x, y = side * apart + turn, -0.18
        white = paint.ellipse(x, y, size * 1.15, size * lid)
        paint.mix(white, torch.tensor([[0.97, 0.97, 0.96]], device=paint.device))
        look = x + 0.045 * m["turn"]
        paint.mix(white * paint.ellipse(look, y, size * 0.62, size * 0.62), faces.iris)
        paint.mix(white * paint.ellipse(look, y, size * 0.30, size * 0.30), faces.iris * 0.15)
        outline = paint.ring(x, y, size * 1.15, size * lid, 0.022)
        paint.mix(outline, faces.hair * 0.35)
        lift = 0.05 * m["brow"]
        tilt = side * (paint.u - x) * (0.2 * (s[10] - 0.5) - 0.45 * (-m["mood"]).clamp(min=0))
        brow = paint.ellipse(x, -0.355 - lift, size * 1.35, 0.035, bend=tilt)
        paint.mix(brow, faces.hair * 0.6)


def _mouth(paint: _Canvas, faces: Faces, m: dict[str, Tensor], s: list[Tensor], turn: Tensor) -> None:
    """Lips around a dark opening with a strip of teeth; its corners follow the mood."""
    opening = m["opening"]
    half = (0.20 + 0.11 * m["width"]) * (0.95 + 0.1 * s[11]) + 0.04 * m["mood"]
    gap = 0.008 + 0.19 * opening
    x, y = 1.3 * turn, 0.335 + 0.55 * gap * 0.5
    bend = (0.9 * m["mood"] + 0.12) * ((paint.u - x) ** 2 - 0.5 * half**2)
    lips = paint.ellipse(x, y, half + 0.035, gap + 0.062, bend=bend)
    paint.mix(lips, faces.lips)
    inside = paint.ellipse(x, y, half, gap, bend=bend)
    dark = torch.tensor([[0.16, 0.03, 0.05]], device=paint.device)
    paint.mix(inside, dark)
    tongue = paint.ellipse(x, y + 0.75 * gap, half * 0.6, gap * 0.45, bend=bend)
    paint.mix(0.8 * inside * tongue * (opening > 0.12), torch.tensor([[0.62, 0.20, 0.22]], device=paint.device))
    teeth = paint.coverage(paint.v + bend - (y - gap + 0.3 * gap))
    paint.mix(inside * teeth * (6 * opening - 0.6).clamp(0, 1), torch.tensor([[0.95, 0.94, 0.90]], device=paint.device))


class _Canvas:
    """Colours [B, 3, frames, H, W] and the coordinates in which shapes are given, [B, frames, H, W]."""

    def __init__(self, x: Tensor, y: Tensor, pixel: float) -> None:
        self.x, self.y, self.pixel, self.device = x, y, pixel, x.device
        self.u, self.v = x, y
        self.colours: Tensor = x

    def at(self, x: Tensor, y: Tensor, roll: Tensor) -> None:
        """From here on, shapes are relative to a point and turned."""
        dx, dy = self.x - x, self.y - y + 0.2
        self.u, self.v = dx * torch.cos(roll) + dy * torch.sin(roll), dy * torch.cos(roll) - dx * torch.sin(roll)

    def coverage(self, distance: Tensor) -> Tensor:
        """1 inside, 0 outside, a smooth edge of 1.6 pixels."""
        return torch.sigmoid(distance * (-2.5 / self.pixel))

    def ellipse(
        self, x: Tensor | float, y: Tensor | float, a: Tensor | float, b: Tensor | float, bend: Tensor | float = 0
    ):
        return self.coverage(self._distance(x, y, a, b, bend))

    def ring(self, x: Tensor, y: Tensor | float, a: Tensor, b: Tensor, thickness: float) -> Tensor:
        return self.coverage(self._distance(x, y, a, b, 0).abs() - thickness / 2)

    def _distance(self, x, y, a, b, bend) -> Tensor:
        """To an ellipse, signed: exact in first order, and cut at its ends, where a flat one would go on as a line."""
        u, v = self.u - x, self.v - y + bend
        k0 = torch.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-8)
        k1 = torch.sqrt((u / a**2) ** 2 + (v / b**2) ** 2 + 1e-8)
        return torch.maximum(k0 * (k0 - 1) / k1, u.abs() - a)

    def box(self, x: float, y: float, a: float, b: float) -> Tensor:
        return self.coverage(torch.maximum((self.u - x).abs() - a, (self.v - y).abs() - b))

    def both(self, shape) -> Tensor:
        return torch.maximum(shape(-1), shape(1))

    def soft_spot(self, x: Tensor, y: float, size: float) -> Tensor:
        return torch.exp(-((self.u - x) ** 2 + (self.v - y) ** 2) / size**2)

    def fill(self, coverage: Tensor, colour: Tensor, shade: Tensor | float = 1.0) -> None:
        self.mix(coverage, colour, shade)

    def mix(self, coverage: Tensor, colour: Tensor, shade: Tensor | float = 1.0) -> None:
        shade = shade if isinstance(shade, float) else shade[:, None]
        target = colour[:, :, None, None, None] * shade
        self.colours = self.colours + coverage[:, None] * (target - self.colours)


def box_mask(height: int, width: int, box: tuple[float, float, float, float], device: torch.device | str) -> Tensor:
    """[height, width]: 1 within `box` of the picture's own coordinates."""
    pixel = 2.0 / min(height, width)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) * pixel
    x = (torch.arange(width, device=device) + 0.5 - width / 2) * pixel
    return ((x >= box[0]) & (x <= box[1]))[None] & ((y >= box[2]) & (y <= box[3]))[:, None]
