"""Frames become pixels: on a GPU the planes that are encoded, within a level of what FFmpeg makes of RGB."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from ltx_a2v.media.frames import to_host, to_rgb, to_yuv420p
from ltx_a2v.media.video import VideoWriter, _from_rgb
from ltx_a2v.residency.ledger import Ledger


def drawn(kind: str, frames: int = 11, height: int = 32, width: int = 48) -> Tensor:
    """[1, 3, F, H, W], a little beyond [-1, 1]."""
    if kind == "noise":
        return torch.randn(1, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 0.7
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    waves = torch.sin(x / 9 + t / 3), torch.cos(y / 11 - t / 4), torch.sin((x + y) / 13 + t / 5)
    return torch.stack(waves)[None] * 1.05


@pytest.mark.parametrize("kind", ["waves", "noise"])
def test_planes_are_what_ffmpeg_makes_of_rgb(kind: str) -> None:
    frames = drawn(kind)
    planes = to_yuv420p(frames)
    expected = torch.stack([torch.from_numpy(_from_rgb(pixels).to_ndarray()) for pixels in to_rgb(frames)])
    assert planes.shape == expected.shape == (11, 48, 48)
    difference = (planes.int() - expected.int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.5


def shown(planes: Tensor) -> np.ndarray:
    """RGB of the planes, as a player converts them."""
    frame = av.VideoFrame.from_ndarray(planes.numpy(), format="yuv420p")
    return frame.to_ndarray(format="rgb24", src_colorspace="ITU709", dst_color_range="JPEG").astype(int)


@pytest.mark.parametrize("kind", ["waves", "noise"])
def test_pictures_stay_within_half_a_level(kind: str) -> None:
    frames = drawn(kind)
    for planes, pixels in zip(to_yuv420p(frames), to_rgb(frames), strict=True):
        expected = torch.from_numpy(_from_rgb(pixels).to_ndarray())
        assert np.abs(shown(planes) - shown(expected)).mean() < 0.5


def test_rgb_is_rounded_to_the_nearest_level() -> None:
    frames = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 2, 3).expand(1, 3, 1, 2, 3)
    host = to_host(frames)
    assert host.copied is None
    assert host.pixels[0, :, :, 1].flatten().tolist() == [0, 0, 128, 191, 255, 255]


@torch.inference_mode()
def test_planned_memory_is_that_of_planes_and_few_frames() -> None:
    frames = torch.empty(1, 3, 40, 64, 64, device="meta")
    with Ledger() as ledger:
        pixels = to_host(frames).pixels
    assert pixels.shape == (40, 96, 64)
    one = 3 * 64 * 64 * 4
    assert 40 * 96 * 64 < ledger.peak < 40 * 96 * 64 + 3 * 4 * one


def test_a_file_of_planes_is_as_close_to_the_frames_as_one_of_rgb(tmp_path: Path) -> None:
    frames = drawn("waves", 25, 64, 64)
    errors = []
    for pixels in (to_rgb(frames), to_yuv420p(frames)):
        path = tmp_path / "a.mp4"
        with VideoWriter(path, width=64, height=64, frame_rate=24, audio=None) as writer:
            writer.write(pixels)
        with av.open(path) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
            assert (context.color_primaries, context.color_trc) == (1, 1)
            seen = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        errors.append(seen.astype(int) - to_rgb(frames).numpy())
    rgb, planes = errors
    assert np.abs(planes).mean() < np.abs(rgb).mean() + 0.1
    assert abs(planes.mean() - rgb.mean()) < 0.1
