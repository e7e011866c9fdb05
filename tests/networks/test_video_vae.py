"""Tiles: their layout is the reference's, and they cover everything once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ltx_a2v import A2VPipeline
from ltx_a2v.networks.tiling import spans, temporal_spans
from ltx_a2v.networks.video_vae import decode_frames, to_8_bit
from ltx_a2v.versions import NEWEST, Tiling


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 10))
def test_spans_cover_everything_with_the_overlap(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    pieces = spans(length, size, overlap)
    assert pieces[0].start == 0
    assert pieces[-1].stop == length
    assert all(0 < piece.stop - piece.start <= size for piece in pieces)
    for before, after in pairwise(pieces):
        assert before.stop - after.start == after.before == overlap


def test_temporal_layout_of_97_frames() -> None:
    """Recorded from the reference: latents [0, 10) and [6, 13)."""
    assert [(p.start, p.stop) for p in temporal_spans(NEWEST.tiling, 13)] == [(0, 10), (6, 13)]


class Linear(nn.Module):
    """A decoder whose pixels say where they come from, so that tiles agree wherever they overlap."""

    def forward(self, latent: Tensor) -> Tensor:
        first = latent[:, :3, :1]
        rest = latent[:, :3, 1:].repeat_interleave(8, dim=2)
        return torch.cat([first, rest], dim=2).repeat_interleave(32, dim=3).repeat_interleave(32, dim=4)


@pytest.mark.parametrize("shape", [(13, 5, 7), (1, 2, 2), (33, 3, 9), (10, 30, 8)])
def test_tiles_put_together_equal_the_whole(shape: tuple[int, int, int]) -> None:
    latent = torch.rand(1, 128, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tiling = Tiling(frames=5, frames_overlap=1, cells=4, cells_overlap=1)
    tiled = torch.cat(list(decode_frames(Linear(), latent, tiling)))
    whole = to_8_bit(Linear()(latent))
    assert tiled.shape == whole.shape
    assert (tiled.int() - whole.int()).abs().max() <= 1


@torch.inference_mode()
def test_small_videos_are_decoded_at_once(pipeline: A2VPipeline) -> None:
    latent = torch.randn(1, 128, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    with pipeline.model.within({}).use("video_decoder") as decoder:
        pieces = list(decode_frames(decoder, latent, NEWEST.tiling))
        assert len(pieces) == 1
        assert torch.equal(pieces[0], to_8_bit(decoder(latent)))
    assert pieces[0].shape == (17, 64, 128, 3)
