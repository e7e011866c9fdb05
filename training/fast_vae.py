"""The video VAE's forward for training: the same weights and the same numbers as diffusers' modules, channels last.

A causal 3D convolution becomes one 2D convolution over three frames' channels side by side: 2D kernels are the ones
that GPUs are fast at, and no layout is ever changed between layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def encode(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """[B, 3, F, H, W] -> mean [B, F', H/32, W/32, 128]."""
    p = encoder.patch_size
    b, c, f, h, w = pixels.shape
    x = pixels.reshape(b, c, f, h // p, p, w // p, p).permute(0, 2, 3, 5, 1, 6, 4).flatten(4)
    x = conv(encoder.conv_in, x, causal=True)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = residual(resnet, x, causal=True)
        x = down(block.downsamplers[0], x)
    for resnet in encoder.mid_block.resnets:
        x = residual(resnet, x, causal=True)
    return conv(encoder.conv_out, norm_silu(x), causal=True)[..., :-1]


def decode(decoder: nn.Module, latent: Tensor) -> Tensor:
    """[B, F', H', W', 128] -> [B, 3, F, H, W]."""
    x = conv(decoder.conv_in, latent, causal=False)
    for resnet in decoder.mid_block.resnets:
        x = residual(resnet, x, causal=False)
    for block in decoder.up_blocks:
        x = up(block.upsamplers[0], x)
        for resnet in block.resnets:
            x = residual(resnet, x, causal=False)
    x = conv(decoder.conv_out, norm_silu(x), causal=False)
    p = decoder.patch_size
    b, f, h, w, _ = x.shape
    return x.view(b, f, h, w, -1, p, p).permute(0, 4, 1, 2, 6, 3, 5).reshape(b, -1, f, h * p, w * p)


def conv(layer: nn.Module, x: Tensor, causal: bool) -> Tensor:
    """[B, F, H, W, C] -> [B, F, H, W, C']."""
    weight, bias = layer.conv.weight, layer.conv.bias
    before = (x[:, :1], x[:, :1]) if causal else (x[:, :1],)
    after = () if causal else (x[:, -1:],)
    padded, frames = torch.cat([*before, x, *after], dim=1), x.shape[1]
    taps = torch.cat([padded[:, k : k + frames] for k in range(3)], dim=-1)
    flat = taps.flatten(0, 1).permute(0, 3, 1, 2)
    kernel = weight.permute(0, 2, 1, 3, 4).flatten(1, 2).to(x.dtype, memory_format=torch.channels_last)
    out = F.conv2d(flat, kernel, bias.to(x.dtype), padding=1)
    return out.permute(0, 2, 3, 1).unflatten(0, (x.shape[0], frames))


def norm_silu(x: Tensor) -> Tensor:
    return F.silu(F.rms_norm(x, (x.shape[-1],), eps=1e-8))


def residual(block: nn.Module, x: Tensor, causal: bool) -> Tensor:
    inner = conv(block.conv1, norm_silu(x), causal)
    return x + conv(block.conv2, norm_silu(inner), causal)


def down(layer: nn.Module, x: Tensor) -> Tensor:
    st, sh, sw = layer.stride
    x = torch.cat([x[:, : st - 1], x], dim=1)
    kept = _to_depth(x, st, sh, sw).unflatten(-1, (-1, layer.group_size)).mean(-1)
    return _to_depth(conv(layer.conv, x, causal=True), st, sh, sw) + kept


def up(layer: nn.Module, x: Tensor) -> Tensor:
    st, sh, sw = layer.stride
    x = conv(layer.conv, x, causal=False)
    b, f, h, w, c = x.shape
    x = x.view(b, f, h, w, c // (st * sh * sw), st, sh, sw).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, f * st, h * sh, w * sw, -1)[:, st - 1 :]


def _to_depth(x: Tensor, st: int, sh: int, sw: int) -> Tensor:
    b, f, h, w, c = x.shape
    x = x.reshape(b, f // st, st, h // sh, sh, w // sw, sw, c)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)
