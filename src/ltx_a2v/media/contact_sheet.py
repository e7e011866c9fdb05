"""A clip on one picture: frames, their mouths enlarged, and below them the sound with the mouth's opening over it."""

from __future__ import annotations

from itertools import pairwise

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ltx_a2v.media.sync import MOUTH_BOX, mouth_opening

COLUMNS = 12
CELL = 128
"""Width of a frame."""
GRAPH = 120
"""Height of the graph."""
FOOT = 20
"""Height of the line of text below it."""
PAPER, INK, SOUND, MOUTH, GRID = "white", "#222222", "#9db7d5", "#c0392b", "#dddddd"


def contact_sheet(frames: Tensor, waveform: Tensor, sample_rate: int, frame_rate: float) -> Image.Image:
    """`frames`: uint8 [F, H, W, 3]; `waveform`: [C, N], beginning with the first frame.

    Each frame shown stands above its time in the graph.
    """
    columns = min(COLUMNS, len(frames))
    shown = [int((column + 0.5) * len(frames) / columns) for column in range(columns)]
    pictures = [Image.fromarray(frames[index].numpy()) for index in shown]
    mouths = [picture.crop(_mouth(picture.size)) for picture in pictures]
    rows = [[_cell(picture) for picture in row] for row in (pictures, mouths)]
    above = sum(row[0].height for row in rows)
    sheet = Image.new("RGB", (columns * CELL, above + GRAPH + FOOT), PAPER)
    top = 0
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * CELL, top))
        top += row[0].height
    sheet.paste(sound_graph(frames, waveform, sample_rate, frame_rate, sheet.width, GRAPH), (0, top))
    _write_times(ImageDraw.Draw(sheet), sheet.width, top + GRAPH + 4, len(frames) / frame_rate)
    return sheet


def sound_graph(
    frames: Tensor, waveform: Tensor, sample_rate: int, frame_rate: float, width: int, height: int
) -> Image.Image:
    """The waveform, and over it the opening of the mouth; a line per second."""
    graph = Image.new("RGB", (width, height), PAPER)
    draw, seconds = ImageDraw.Draw(graph), len(frames) / frame_rate
    for second in range(1, int(seconds) + 1):
        x = round(width * second / seconds)
        draw.line((x, 0, x, height), fill=GRID)
    _draw_sound(draw, width, height, waveform[:, : round(seconds * sample_rate)])
    _draw_opening(draw, width, height, mouth_opening(frames))
    return graph


def _cell(picture: Image.Image) -> Image.Image:
    return picture.resize((CELL, round(CELL * picture.height / picture.width)), Image.Resampling.LANCZOS)


def _mouth(size: tuple[int, int]) -> tuple[int, int, int, int]:
    (width, height), half = size, min(size) / 2
    left, right, top, bottom = MOUTH_BOX
    return (
        round(width / 2 + left * half),
        round(height / 2 + top * half),
        round(width / 2 + right * half),
        round(height / 2 + bottom * half),
    )


def _draw_sound(draw: ImageDraw.ImageDraw, width: int, height: int, waveform: Tensor) -> None:
    """The loudest sample of each column of pixels, up and down from the middle."""
    mono = waveform.mean(0)
    edges = torch.linspace(0, len(mono), width + 1).round().long().tolist()
    peaks = [float(mono[a:b].abs().max()) if b > a else 0.0 for a, b in pairwise(edges)]
    loudest, middle = max(*peaks, 1e-3), height / 2
    for x, peak in enumerate(peaks):
        size = peak / loudest * (middle - 4)
        draw.line((x, middle - size, x, middle + size), fill=SOUND)


def _draw_opening(draw: ImageDraw.ImageDraw, width: int, height: int, opening: Tensor) -> None:
    """The narrowest at the bottom, the widest at the top."""
    scaled = (opening - opening.min()) / (opening.max() - opening.min()).clamp(min=0.01)
    points = [
        (round((index + 0.5) * width / len(opening)), round(height - 4 - float(value) * (height - 8)))
        for index, value in enumerate(scaled)
    ]
    draw.line(points, fill=MOUTH, width=2)


def _write_times(draw: ImageDraw.ImageDraw, width: int, top: int, seconds: float) -> None:
    draw.text((4, top), "sound (blue), opening of the mouth (red)", fill=INK)
    for second in range(1, int(seconds) + 1):
        x = round(width * second / seconds)
        if x > 240:  # the words above are in the way
            draw.text((x - 8, top), f"{second} s", fill=INK)
