"""The visible label: one line of text in the lower left corner of every frame."""

from __future__ import annotations

from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ltx_a2v.errors import InvalidRequest

SHARE = 1 / 24
"""Size of the letters, as a share of the frame's shorter side."""
SMALLEST = 10
"""Pixels of the letters' size; below, they cannot be read."""
WIDEST = 0.9
"""Share of the frame's width."""
BEHIND = 0.6
"""How much of the picture the dark box hides."""
_WHITE, _BLACK = 235, 16
"""Luma of limited range; both have chroma 128."""
_NO_GLYPH = "\U0010ffff"
"""A character that no font has."""


class Label:
    """A label for frames of one size. It only depends on the text and the size, so all windows have the same."""

    def __init__(self, text: str, width: int, height: int) -> None:
        """Raises `InvalidRequest` where the text does not fit, or has characters that cannot be drawn."""
        letters = _letters(text, width, height)
        rows, columns = letters.shape
        margin = max(rows // 4, 2) // 2 * 2
        self._rows = slice(height - margin - rows, height - margin)
        self._columns = slice(margin, margin + columns)
        self._keep = (1 - letters) * (1 - BEHIND)
        """Share of the picture that stays, [rows, columns]."""
        self._light = letters
        self._size = height, width

    def on(self, pixels: Tensor) -> Tensor:
        """A labelled copy of one frame: uint8 RGB [H, W, 3], or the planes of yuv420p [3 H / 2, W]."""
        pixels = pixels.clone()
        if pixels.ndim == 3:
            part = pixels[self._rows, self._columns]
            part.copy_(_round(part * self._keep[..., None] + 255 * self._light[..., None]))
            return pixels
        height, width = self._size
        luma, *chromas = pixels.view(-1).split([height * width, *[height * width // 4] * 2])
        part = luma.view(height, width)[self._rows, self._columns]
        hidden = 1 - self._keep - self._light
        part.copy_(_round(part * self._keep + _WHITE * self._light + _BLACK * hidden))
        keep = torch.nn.functional.avg_pool2d(self._keep[None], 2)[0]
        rows, columns = (slice(span.start // 2, span.stop // 2) for span in (self._rows, self._columns))
        for chroma in chromas:
            part = chroma.view(height // 2, width // 2)[rows, columns]
            part.copy_(_round(128 + (part - 128.0) * keep))
        return pixels


@lru_cache(maxsize=8)
def label_of(text: str | None, width: int, height: int) -> Label | None:
    """None without a text. Raises as `Label`."""
    return None if text is None else Label(text, width, height)


def _letters(text: str, width: int, height: int) -> Tensor:
    """How much of each pixel letters cover, [rows, columns] in 0..1 with the box's border; both sizes are even."""
    size = max(round(min(width, height) * SHARE), SMALLEST)
    while size >= SMALLEST:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # all wheels of Pillow have it
        left, _, right, _ = font.getbbox(text)
        border = size / 3
        columns, rows = (int(-(-(side + 2 * border) // 2) * 2) for side in (right - left, sum(font.getmetrics())))
        if columns <= width * WIDEST and rows <= height / 2:
            break
        size -= 1
    else:
        reason = f"does not fit into {width}x{height}: shorten it"
        raise InvalidRequest("visible_label", text, reason)
    _check_glyphs(text, font)
    picture = Image.new("L", (columns, rows))
    ImageDraw.Draw(picture).text((columns / 2, rows / 2), text, fill=255, font=font, anchor="mm")
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(rows, columns) / 255


def _check_glyphs(text: str, font: ImageFont.FreeTypeFont) -> None:
    nothing = bytes(font.getmask(_NO_GLYPH))
    missing = "".join(sorted({c for c in text if not c.isspace() and bytes(font.getmask(c)) == nothing}))
    if missing:
        reason = f"has characters that the built-in font lacks ({missing[:20]}): it has Latin letters"
        raise InvalidRequest("visible_label", text, reason)


def _round(values: Tensor) -> Tensor:
    return values.round().to(torch.uint8)
