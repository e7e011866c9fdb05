"""Divides a latent into the tiles that are decoded one after the other, by a version's `Tiling`."""

from __future__ import annotations

from dataclasses import dataclass

from ltx_a2v.versions import Tiling


@dataclass(frozen=True)
class Span:
    """[start, stop) along one axis, of which `before` are shared with the neighbour before."""

    start: int
    stop: int
    before: int


def temporal_spans(tiling: Tiling, frames: int) -> list[Span]:
    """Pieces after the first start one latent frame early: a decoder decodes its first latent frame to a single
    frame."""
    pieces = spans(frames, tiling.frames, tiling.frames_overlap)
    return pieces[:1] + [Span(piece.start - 1, piece.stop, piece.before + 1) for piece in pieces[1:]]


def spatial_spans(tiling: Tiling, length: int, longer: int) -> list[Span]:
    """Along a side of `length` cells of a picture whose longer side has `longer`."""
    size = max(tiling.cells_overlap + 1, round(tiling.cells * length / longer))
    return spans(length, size, tiling.cells_overlap)


def spans(length: int, size: int, overlap: int) -> list[Span]:
    """Cover `length` with pieces of `size` that share `overlap`; the last may be shorter."""
    if length <= size:
        return [Span(0, length, 0)]
    stride = size - overlap
    starts = range(0, length - overlap, stride)
    return [Span(start, min(start + size, length), overlap if start else 0) for start in starts]
