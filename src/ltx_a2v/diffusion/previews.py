"""Rough pictures of the video while it is made: a linear map from the latent's cells to pixels.

The request's own pictures give the map, since both their pixels and their latents are known: it is fitted by ridge
regression in milliseconds, for whatever weights the VAE has, and takes no memory on the device. So a request without a
picture has no previews. On the miniature a preview of the finished latent is within 18 to 23 dB of the decoded frame.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.events import Phase, Previewed
from ltx_a2v.residency.ledger import on_host

SIDE = 8
"""Pixels of a preview per cell, each way; a cell is 32 pixels of the video."""
RIDGE = 10.0
"""Of 1, 10 and 100 the best on the miniature, whose pictures have 80 cells."""
EVERY = 5
"""Steps from one preview to the next."""
QUALITY = 80


@dataclass(frozen=True)
class Painter:
    """The map: pixels of a cell = cell @ `weights` + `base`."""

    weights: Tensor
    """[channels, 3 * SIDE * SIDE], float32 on the host."""
    base: Tensor
    """[3 * SIDE * SIDE]"""

    @classmethod
    def fitted(cls, pictures: Sequence[tuple[Tensor, Tensor]]) -> Painter | None:
        """From pairs of a latent [1, C, F, h, w] and its pixels [1, 3, frames, H, W] in [-1, 1], of which the first
        frames are used. None without pairs, and where they hold no values (`meta`)."""
        if not pictures or any(latent.is_meta for latent, _ in pictures):
            return None
        with on_host():
            cells = torch.cat([latent[0, :, 0].float().cpu().flatten(1).T for latent, _ in pictures])
            pixels = torch.cat([_pixels_of_cells(frames, latent) for latent, frames in pictures])
            base = pixels.mean(0)
            damped = cells.T @ cells + RIDGE * torch.eye(cells.shape[1])
            return cls(torch.linalg.solve(damped, cells.T @ (pixels - base)), base)

    def paint(self, cells: Tensor, height: int, width: int) -> Tensor:
        """Cells [height * width, channels] on the host -> uint8 RGB [height * SIDE, width * SIDE, 3]."""
        pixels = (cells.float() @ self.weights + self.base).view(height, width, 3, SIDE, SIDE)
        picture = pixels.permute(0, 3, 1, 4, 2).reshape(height * SIDE, width * SIDE, 3)
        return ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class Previews:
    """The previews of one stage, of the latent frame in its middle.

    The copy to the host is awaited one step later: by then it has long happened, so the device is never waited for.
    """

    def __init__(self, painter: Painter | None, grid: LatentGrid) -> None:
        """Without a `painter` there are none."""
        self._painter = painter
        self._size = grid.height, grid.width
        middle = grid.frames // 2
        self._tokens = slice(middle * grid.frame_tokens, (middle + 1) * grid.frame_tokens)
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def after(self, phase: Phase, step: int, estimate: Tensor) -> Iterator[Previewed]:
        """`estimate`: of the finished latent, [1, tokens, channels], after this step."""
        if self._painter is None:
            return
        if self._copy is not None:
            yield Previewed(phase, step - 1, self._jpeg(self._painter, self._copy))
            self._copy = None
        if step % EVERY == 1:
            self._copy = self._on_host(estimate[0, self._tokens])

    def _on_host(self, cells: Tensor) -> Tensor:
        with on_host():
            if cells.device.type != "cuda":
                return cells.clone()
            copy = torch.empty(cells.shape, dtype=cells.dtype, pin_memory=True).copy_(cells, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(cells.device))
        return copy

    def _jpeg(self, painter: Painter, cells: Tensor) -> bytes:
        if self._copied is not None:
            self._copied.synchronize()
        with on_host():
            picture = painter.paint(cells, *self._size)
        out = io.BytesIO()
        Image.fromarray(picture.numpy()).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()


def _pixels_of_cells(frames: Tensor, latent: Tensor) -> Tensor:
    """The first frame in SIDE x SIDE pixels per cell of the latent: [cells, 3 * SIDE * SIDE]."""
    height, width = latent.shape[3:]
    small = F.interpolate(frames[:, :, 0].float().cpu(), (height * SIDE, width * SIDE), mode="area")[0]
    return small.view(3, height, SIDE, width, SIDE).permute(1, 3, 0, 2, 4).reshape(height * width, -1)
