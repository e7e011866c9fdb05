"""The functions in their plain form, which dispatch to Triton.

Shapes: video and audio tokens are [rows, tokens, dim]. A modulation is [1, t, 1, dim] and holds for tokens / t tokens
each: t is the number of latent frames, or 1. A video inside the VAE is [batch, channels, frames, height, width].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.kernels.activation import Activation, Form, Quantized, allocate
from ltx_a2v.kernels.dispatch import fused, fused_on, triton_kernels

Rope = tuple[Tensor, Tensor]
"""Cosines and sines, [1, heads, tokens, head size / 2]."""

E4M3_MAX = 448.0
TINY = 1e-30
"""The scale of a row of zeros."""
LONGEST_ROW = 2**14
"""One program holds a row that it quantizes: the longest is the input of a feed-forward's second layer."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor, form: Form = Form.VALUES) -> Activation:
    """x (1 + scale) + shift"""
    if _fused_rows(x, form):
        return allocate(x.shape, x, form) if x.is_meta else triton_kernels().modulate(x, scale, shift, None, form)
    return _in_form((x.unflatten(1, (scale.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2), form)


def norm_and_modulate(norm: Any, x: Tensor, scale: Tensor, shift: Tensor, form: Form = Form.VALUES) -> Activation:
    """`modulate` of `norm(x)`; `norm` is an RMS norm without weights."""
    if _fused_rows(x, form):
        return allocate(x.shape, x, form) if x.is_meta else triton_kernels().modulate(x, scale, shift, norm.eps, form)
    return modulate(norm(x), scale, shift, form)


def add_gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """x + change gate, of the same shape: a kernel does not broadcast rows."""
    assert x.shape == change.shape
    if fused_on(x):
        return torch.empty_like(x) if x.is_meta else triton_kernels().add_gated(x, change, gate)
    return x + (change.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


def add_gated_(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """`add_gated`, written over `x`, which is contiguous."""
    assert x.shape == change.shape
    if fused_on(x):
        return x if x.is_meta else triton_kernels().add_gated(x, change, gate, out=x)
    return x.add_((change.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2))


def norm_and_rotate(norm: Any, x: Tensor, rope: Rope) -> Tensor:
    """RMS norm over all heads with its weight, then the rotary embedding: [rows, tokens, heads * size]."""
    if fused_on(x):
        return torch.empty_like(x) if x.is_meta else triton_kernels().norm_and_rotate(x, norm.weight, norm.eps, *rope)
    from diffusers.models.transformers.transformer_ltx2 import apply_split_rotary_emb  # quantizing needs no diffusers

    rows = x.shape[0]
    return apply_split_rotary_emb(norm(x), tuple(table.expand(rows, -1, -1, -1) for table in rope))


def gate_heads(parts: Sequence[Tensor], logits: Tensor, form: Form = Form.VALUES) -> Activation:
    """Each head times 2 sigmoid of its logit, heads side by side: [rows, tokens, heads * size].

    `parts` follow each other, [some of the rows, tokens, heads, size] each; `logits` are [rows, tokens, heads].
    """
    rows, tokens, heads = logits.shape
    if _fused_rows(logits, form):
        shape = torch.Size((rows, tokens, heads * parts[0].shape[3]))
        return allocate(shape, logits, form) if logits.is_meta else triton_kernels().gate_heads(parts, logits, form)
    gates = (2.0 * torch.sigmoid(logits)).unsqueeze(-1)
    gated = [part * gate for part, gate in zip(parts, gates.split([len(part) for part in parts]), strict=True)]
    return _in_form((gated[0] if len(gated) == 1 else torch.cat(gated)).flatten(2), form)


def gelu_(x: Tensor, form: Form = Form.VALUES) -> Activation:
    """GELU by its approximation with tanh, written over `x` where values are asked for."""
    if form & Form.E4M3 and _fused_rows(x, form):
        return allocate(x.shape, x, form, values=x) if x.is_meta else triton_kernels().gelu_(x, form)
    return _in_form(torch.ops.aten.gelu_(x, approximate="tanh"), form)


def upcast_rows(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 or e4m3 [out, in] times the float32 `scale` ([out] or one), rounded once to `dtype`."""
    if fused(weight.device, dtype):
        return torch.empty_like(weight, dtype=dtype) if weight.is_meta else triton_kernels().upcast_rows(weight, scale)
    return weight.to(torch.float32).mul_(scale.view(-1, 1)).to(dtype)


def merge_low_rank(weight: Tensor, scale: Tensor | None, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` [out, in] (times the float32 `scale`, [out] or one) + up [out, rank] down [rank, in], in `dtype`.

    The kernel rounds once and writes once; the plain form rounds the weight before it adds.
    """
    if fused(weight.device, dtype):
        if weight.is_meta:
            return torch.empty_like(weight, dtype=dtype)
        return triton_kernels().merge_low_rank(weight, scale, up, down)
    whole = weight.to(dtype) if scale is None else upcast_rows(weight, scale, dtype)
    return torch.addmm(whole, up, down) if whole is weight else whole.addmm_(up, down)


def quantize_rows(tokens: Tensor) -> Quantized:
    """[..., in] -> e4m3, with scales that map each row's largest magnitude to 448; a row of zeros stays one."""
    if _fused_rows(tokens, Form.E4M3):
        quantized = (
            allocate(tokens.shape, tokens, Form.E4M3) if tokens.is_meta else triton_kernels().quantize_rows(tokens)
        )
        assert quantized.quantized is not None
        return quantized.quantized
    low, high = tokens.aminmax(dim=-1, keepdim=True)
    scale = (torch.maximum(-low, high).float() * (1 / E4M3_MAX)).clamp(min=TINY)
    # Divided in float32, kept in the tokens' dtype: bf16 is much finer than 8 bits and half of float32.
    scaled = torch.div(tokens, scale, out=torch.empty_like(tokens))
    return Quantized(scaled.clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale, tokens.dtype)


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


def _fused_rows(x: Tensor, form: Form) -> bool:
    return fused_on(x) and (form == Form.VALUES or x.shape[-1] <= LONGEST_ROW)


def _in_form(values: Tensor, form: Form) -> Activation:
    """The definition of a kernel that quantizes: it quantizes the values that it would have written."""
    quantized = quantize_rows(values) if form & Form.E4M3 else None
    return Activation(values if form & Form.VALUES else None, quantized)
