"""The video decoder's forward, over diffusers' modules.

In contiguous memory it computes the bits of diffusers' own forward. It keeps less: an activation is released as soon as
the next one exists. On a GPU, one kernel normalises, applies SiLU and repeats the outer frames for the convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltx_a2v.kernels import layout_of, norm_silu_and_pad, pad_frames

Padding = tuple[int, int]
"""How often the first and the last frame are repeated, so that a convolution keeps the number of frames."""


def decode(decoder: Any, latent: Tensor) -> Tensor:
    """[B, C, F', H', W'] -> [B, 3, F, H, W], in the dtype of `latent` and, until the last step, its memory layout.

    `decoder` is diffusers' `LTX2VideoDecoder3d` without timestep conditioning.
    """
    video = latent
    del latent
    for step in _steps(decoder):
        video = step(video)  # the one before is released here
    return video


def _steps(decoder: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    padding = _padding(decoder.conv_in, decoder.is_causal)
    repeat = partial(pad_frames, before=padding[0], after=padding[1])
    yield repeat
    yield decoder.conv_in.conv
    for block in (decoder.mid_block, *decoder.up_blocks):
        for upsampler in getattr(block, "upsamplers", None) or ():
            if upsampler.residual:
                yield partial(_upsampled_with_residual, upsampler, padding)
            else:
                yield repeat
                yield upsampler.conv.conv
                yield partial(_depth_to_space, upsampler.stride)
        for resnet in block.resnets:
            yield partial(_resnet, resnet, padding)
    yield lambda video: norm_silu_and_pad(decoder.norm_out, video, *padding)
    yield decoder.conv_out.conv
    yield partial(_unpatchified, decoder.patch_size)


def _padding(convolution: Any, causal: bool) -> Padding:
    kernel = convolution.kernel_size[0]
    return (kernel - 1, 0) if causal else ((kernel - 1) // 2, (kernel - 1) // 2)


def _resnet(block: Any, padding: Padding, video: Tensor) -> Tensor:
    inner = norm_silu_and_pad(block.norm1, video, *padding)
    inner = block.conv1.conv(inner)
    inner = norm_silu_and_pad(block.norm2, inner, *padding)
    inner = block.conv2.conv(inner)
    return inner.add_(video)


def _upsampled_with_residual(upsampler: Any, padding: Padding, video: Tensor) -> Tensor:
    """The input is added with its channels spread over the new pixels, and repeated."""
    repeats = upsampler.stride[0] * upsampler.stride[1] * upsampler.stride[2] // upsampler.upscale_factor
    kept = _depth_to_space(upsampler.stride, video).repeat(1, repeats, 1, 1, 1)
    out: Tensor = upsampler.conv.conv(pad_frames(video, *padding))
    return _depth_to_space(upsampler.stride, out).add_(kept)


def _depth_to_space(stride: tuple[int, int, int], video: Tensor) -> Tensor:
    """[B, C s, F, H, W] -> [B, C, F s_t, H s_h, W s_w] without the first s_t - 1 frames, which show nothing."""
    batch, _, frames, height, width = video.shape
    t, y, x = stride
    cells = video.unflatten(1, (-1, t, y, x)).permute(0, 1, 5, 2, 6, 3, 7, 4)  # [B, C, F, s_t, H, s_h, W, s_w]
    size = frames * t, height * y, width * x
    if layout_of(video) == torch.channels_last_3d:
        out = cells.movedim(1, -1).reshape(batch, *size, -1).movedim(-1, 1)
    else:
        out = cells.reshape(batch, -1, *size)
    return out[:, :, t - 1 :]


def _unpatchified(size: int, video: Tensor) -> Tensor:
    """[B, 3 size^2, F, H, W] -> [B, 3, F, H size, W size]; within a patch, columns come before rows."""
    batch, _, frames, height, width = video.shape
    patches = video.reshape(batch, -1, size, size, frames, height, width).permute(0, 1, 4, 5, 3, 6, 2)
    return patches.reshape(batch, -1, frames, height * size, width * size)
