"""Decoded frames become 8-bit pixels in host memory: on a GPU as the planes that H.264 encodes, otherwise as RGB.

A GPU converts to yuv420p and copies to pinned memory without waiting: 1.5 bytes per pixel cross the bus, and a thread
that encodes waits for the copy while the next frames are decoded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.residency.ledger import on_host

BT709_LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue (ITU-R BT.709, 3.2)."""
BT709_BLUE, BT709_RED = 1.8556, 1.5748
"""What blue - luma and red - luma are divided by."""
FRAMES_AT_ONCE = 4
"""Converted together: few launches, and temporaries of less memory than a decoder's activations."""


class HostFrames(NamedTuple):
    """8-bit frames in host memory."""

    pixels: Tensor
    """uint8: RGB [n, H, W, 3], or the planes of yuv420p [n, 3 H / 2, W], luma before both chromas."""
    copied: torch.cuda.Event | None = None
    """What to wait for before `pixels` are read."""


def to_host(frames: Tensor) -> HostFrames:
    """[1, 3, n, H, W] in [-1, 1], from any device."""
    if frames.device.type == "cpu":
        return HostFrames(to_rgb(frames))
    planes = to_yuv420p(frames)
    with on_host():
        if planes.is_meta:
            return HostFrames(torch.empty_like(planes))
        pixels = torch.empty(planes.shape, dtype=torch.uint8, pin_memory=True)
    pixels.copy_(planes, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(planes.device))
    return HostFrames(pixels, copied)


def to_rgb(frames: Tensor) -> Tensor:
    """[1, 3, n, H, W] in [-1, 1], on a CPU -> uint8 [n, H, W, 3], with one frame's temporaries."""
    count, height, width = frames.shape[2:]
    with on_host():
        pixels = torch.empty(count, height, width, 3, dtype=torch.uint8)
    for index, frame in enumerate(frames[0].unbind(1)):
        pixels[index].copy_(_unit(frame).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous())
    return pixels


def to_yuv420p(frames: Tensor) -> Tensor:
    """[1, 3, n, H, W] in [-1, 1] -> uint8 [n, 3 H / 2, W] on the same device: BT.709, limited range.

    Each chroma value is that of the mean of its four pixels. Height and width must be even.
    """
    count, height, width = frames.shape[2:]
    planes = torch.empty(count, height * 3 // 2, width, dtype=torch.uint8, device=frames.device)
    luma, blue, red = planes.view(count, -1).split([height * width, *[height * width // 4] * 2], dim=1)
    for first in range(0, count, FRAMES_AT_ONCE):
        some = slice(first, first + FRAMES_AT_ONCE)
        rgb = _unit(frames[0, :, some])
        luma[some] = _luma(rgb).mul_(219).add_(16).round_().flatten(1)
        r, _, b = small = F.avg_pool2d(rgb, 2)
        y = _luma(small)
        blue[some] = (b - y).mul_(224 / BT709_BLUE).add_(128).round_().flatten(1)
        red[some] = (r - y).mul_(224 / BT709_RED).add_(128).round_().flatten(1)
    return planes


def from_yuv420p(planes: Tensor) -> Tensor:
    """uint8 [n, 3 H / 2, W] -> [1, 3, n, H, W] in [-1, 1]: the inverse of `to_yuv420p`. FFmpeg's own conversion gives
    values that are one level too low."""
    count, height, width = planes.shape[0], planes.shape[1] * 2 // 3, planes.shape[2]
    sizes = [height * width, height * width // 4, height * width // 4]
    luma, blue, red = (plane.float() for plane in planes.reshape(count, -1).split(sizes, dim=1))
    small = torch.stack([blue, red], 1).view(count, 2, height // 2, width // 2)
    chroma = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False) - 128
    y = (luma.view(count, height, width) - 16) / 219
    b = y + chroma[:, 0] * (BT709_BLUE / 224)
    r = y + chroma[:, 1] * (BT709_RED / 224)
    g = (y - BT709_LUMA[0] * r - BT709_LUMA[2] * b) / BT709_LUMA[1]
    return torch.stack([r, g, b])[None].clamp_(0, 1).mul_(2).sub_(1)


def _unit(frames: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]"""
    return (frames.float() + 1).div_(2).clamp_(0, 1)


def _luma(rgb: Tensor) -> Tensor:
    """[3, n, H, W] -> [n, H, W]"""
    red, green, blue = (channel * weight for channel, weight in zip(rgb, BT709_LUMA, strict=True))
    return red.add_(green).add_(blue)
