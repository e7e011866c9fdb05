"""The functions in their plain form, which dispatch to Triton.

Shapes: video and audio tokens are [rows, tokens, dim]. A modulation is [1, t, 1, dim] and holds for tokens / t tokens
each: t is the number of latent frames, or 1. A video inside the VAE is [batch, channels, frames, height, width].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.kernels.dispatch import fused, fused_on, triton_kernels

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, [1, heads, tokens, head size / 2]."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift"""
    if fused_on(x):
        return _made(x) if x.is_meta else triton_kernels().modulate(x, scale, shift, eps=None)
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def norm_and_modulate(norm: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`modulate` of `norm(x)`; `norm` is an RMS norm without weights."""
    if fused_on(x):
        return _made(x) if x.is_meta else triton_kernels().modulate(x, scale, shift, eps=norm.eps)
    return modulate(norm(x), scale, shift)


def add_gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """x + change gate, of the same shape: a kernel does not broadcast rows."""
    assert x.shape == change.shape
    if fused_on(x):
        return _made(x) if x.is_meta else triton_kernels().add_gated(x, change, gate)
    return x + (change.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


def norm_and_rotate(norm: Any, x: Tensor, rope: Rope) -> Tensor:
    """RMS norm over all heads with its weight, then the rotary embedding: [rows, tokens, heads * size]."""
    if fused_on(x):
        return _made(x) if x.is_meta else triton_kernels().norm_and_rotate(x, norm.weight, norm.eps, *rope)
    from diffusers.models.transformers.transformer_ltx2 import apply_split_rotary_emb  # quantizing needs no diffusers

    rows = x.shape[0]
    return apply_split_rotary_emb(norm(x), tuple(table.expand(rows, -1, -1, -1) for table in rope))


def gate_heads(heads: Tensor, logits: Tensor) -> Tensor:
    """Each head of [rows, tokens, heads, size] times 2 sigmoid of its logit [rows, tokens, heads], side by side."""
    if fused_on(heads):
        return _made(heads).flatten(2) if heads.is_meta else triton_kernels().gate_heads(heads, logits)
    return (heads * (2.0 * torch.sigmoid(logits)).unsqueeze(-1)).flatten(2)


def upcast_rows(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 or e4m3 [out, in] times the float32 `scale` ([out] or one), rounded once to `dtype`."""
    if fused(weight.device, dtype):
        return triton_kernels().upcast_rows(weight, scale)
    if weight.is_meta:
        return torch.empty_like(weight, dtype=dtype)
    return (weight.float() * scale.view(-1, 1)).to(dtype)


def quantize_rows(tokens: Tensor, largest: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[M, in] -> `dtype` (int8 or e4m3) [M, in] and float32 scales [M, 1], which map each row's largest magnitude to
    `largest`; a row of zeros stays one."""
    if fused_on(tokens) and not tokens.is_meta and tokens.shape[1] <= triton_kernels().LONGEST_ROW:
        return triton_kernels().quantize_rows(tokens, largest, dtype)
    low, high = tokens.aminmax(dim=1, keepdim=True)
    scale = (torch.maximum(-low, high).float() * (1 / largest)).clamp(min=TINY)
    # Divided in float32, kept in the tokens' dtype: bf16 is much finer than 8 bits and half of float32.
    scaled = torch.div(tokens, scale, out=torch.empty_like(tokens))
    if not dtype.is_floating_point:
        scaled = scaled.round_()
    return scaled.clamp_(-largest, largest).to(dtype), scale


def norm_silu_and_pad(norm: Any, video: Tensor, before: int, after: int) -> Tensor:
    """SiLU of `norm(video)`, a per-pixel RMS norm without weights, with its ends repeated as `pad_frames` does."""
    if fused_on(video):
        if video.is_meta:
            return _padded(video, before, after)
        return triton_kernels().norm_silu_and_pad(video, norm.eps, before, after)
    return pad_frames(F.silu(norm(video), inplace=True), before, after)


def pad_frames(video: Tensor, before: int, after: int) -> Tensor:
    """The first frame `before` times more and the last one `after` times, in the memory layout of `video`."""
    if not before and not after:
        return video
    out = _padded(video, before, after)
    out[:, :, :before] = video[:, :, :1]
    out[:, :, before : before + video.shape[2]] = video
    out[:, :, before + video.shape[2] :] = video[:, :, -1:]
    return out


def _padded(video: Tensor, before: int, after: int) -> Tensor:
    """Not filled."""
    batch, channels, frames, height, width = video.shape
    shape = batch, channels, before + frames + after, height, width
    return torch.empty(shape, dtype=video.dtype, device=video.device, memory_format=layout_of(video))


def layout_of(video: Tensor) -> torch.memory_format:
    """Of its memory: channels last only where it is not contiguous as well."""
    last = not video.is_contiguous() and video.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if last else torch.contiguous_format


TINY = 1e-30
"""The scale of a row of zeros."""


def _made(x: Tensor) -> Tensor:
    """On `meta`, where memory is measured: a kernel allocates only its output."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
