"""The functions of `pointwise` as Triton kernels: one program per token, per row of a weight, or per few pixels.

All of them read bfloat16 (or 8 bits), compute in float32 and write once. Triton takes annotations for code, so the
kernels' arguments have none.
"""

from __future__ import annotations

import os
from typing import Any

import torch

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # a product and a sum rounded once; unset, Triton warns

import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 2048
"""Of a weight's row that one program converts."""
LONGEST_ROW = 2**14
"""One program holds a row that it quantizes: the longest is the input of a feed-forward's second layer."""
PIXEL_VALUES = 4096
"""Values of neighbouring pixels that one program normalises: its loads fill the GPU's widest ones."""
ROUND = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding and subtracting it rounds a float32 to an integer, halves to even."""


_COUNTS = ["tokens", "frame_tokens"]
"""Arguments that kernels are not specialised on, since their values change with the size of the video."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float | None) -> Tensor:
    """With `eps`, of x normalised by its root mean square."""
    x = x.contiguous()
    out = torch.empty_like(x)
    rows, tokens, dim = x.shape
    frames = tokens, tokens // scale.shape[1], _frame_stride(scale), _frame_stride(shift)
    constants = {"NORM": eps is not None, "BLOCK": triton.next_power_of_2(dim)}
    _launch(_modulate, (rows * tokens,), x, scale, shift, out, *frames, dim, eps or 0.0, **constants, num_warps=8)
    return out


def add_gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    x, change = x.contiguous(), change.contiguous()
    out = torch.empty_like(x)
    rows, tokens, dim = x.shape
    frames = tokens, tokens // gate.shape[1], _frame_stride(gate)
    constants = {"BLOCK": triton.next_power_of_2(dim)}
    _launch(_add_gated, (rows * tokens,), x, change, gate, out, *frames, dim, **constants, num_warps=8)
    return out


def norm_and_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    out = torch.empty_like(x)
    rows, tokens, dim = x.shape
    constants = {"HALF": cos.shape[3], "BLOCK": triton.next_power_of_2(dim // 2)}
    arguments = (weight, cos, sin, out, tokens, dim, eps)
    _launch(_norm_and_rotate, (rows * tokens,), x, *arguments, **constants, num_warps=8)
    return out


def gate_heads(heads: Tensor, logits: Tensor) -> Tensor:
    rows, tokens, count, size = heads.shape
    assert heads.stride(3) == 1
    out = torch.empty((rows, tokens, count * size), dtype=heads.dtype, device=heads.device)
    arguments = (logits.contiguous(), out, tokens, *heads.stride()[:3], count)
    constants = {"SIZE": size, "BLOCK": triton.next_power_of_2(count * size)}
    _launch(_gate_heads, (rows * tokens,), heads, *arguments, **constants, num_warps=8)
    return out


def upcast_rows(weight: Tensor, scale: Tensor) -> Tensor:
    rows, columns = weight.shape
    out = torch.empty((rows, columns), dtype=torch.bfloat16, device=weight.device)
    grid = rows, triton.cdiv(columns, COLUMNS)
    _launch(_upcast_rows, grid, weight, scale, out, columns, int(scale.numel() > 1), BLOCK=COLUMNS, num_warps=4)
    return out


def quantize_rows(tokens: Tensor, largest: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    tokens = tokens.contiguous()
    count, columns = tokens.shape
    out = torch.empty((count, columns), dtype=dtype, device=tokens.device)
    scale = torch.empty((count, 1), dtype=torch.float32, device=tokens.device)
    constants = {"ROUNDED": not dtype.is_floating_point, "BLOCK": triton.next_power_of_2(columns)}
    arguments = (out, scale, columns, largest, 1 / largest)
    _launch(_quantize_rows, (count,), tokens, *arguments, **constants, num_warps=8)
    return out, scale


def norm_silu_and_pad(x: Tensor, eps: float, before: int, after: int) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last_3d)
    batch, channels, frames, height, width = x.shape
    padded = before + frames + after
    shape = batch, channels, padded, height, width
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    block = triton.next_power_of_2(channels)
    rows = max(PIXEL_VALUES // block, 1)
    grid = triton.cdiv(height * width, rows), batch * padded
    arguments = out, frames, padded, before, height * width, channels, eps
    _launch(_norm_silu_and_pad, grid, x, *arguments, ROWS=rows, BLOCK=block, num_warps=8)
    return out


def _launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *others: Any, **constants: Any) -> None:
    """On the tensors' GPU: Triton launches on the current one, whatever the tensors say."""
    device = first.device
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        kernel[grid](first, *others, **constants)
        return
    with torch.cuda.device(device):
        kernel[grid](first, *others, **constants)


def _frame_stride(modulation: Tensor) -> int:
    """Of [1, t, 1, dim], from one latent frame to the next."""
    assert modulation.stride(3) == 1
    return modulation.stride(1) if modulation.shape[1] > 1 else 0


@triton.jit(do_not_specialize=_COUNTS)
def _modulate(
    x,
    scale,
    shift,
    out,
    tokens,
    frame_tokens,
    scale_stride,
    shift_stride,
    dim,
    eps,
    NORM: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    frame = (row % tokens) // frame_tokens
    column = tl.arange(0, BLOCK)
    inside = column < dim
    value = tl.load(x + row * dim + column, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        value = value * tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
    by = tl.load(scale + frame * scale_stride + column, mask=inside, other=0.0).to(tl.float32)
    to = tl.load(shift + frame * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + column, (value * (1.0 + by) + to).to(tl.bfloat16), mask=inside)


@triton.jit(do_not_specialize=_COUNTS)
def _add_gated(
    x,
    change,
    gate,
    out,
    tokens,
    frame_tokens,
    gate_stride,
    dim,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    frame = (row % tokens) // frame_tokens
    column = tl.arange(0, BLOCK)
    inside = column < dim
    value = tl.load(x + row * dim + column, mask=inside, other=0.0).to(tl.float32)
    added = tl.load(change + row * dim + column, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(gate + frame * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + column, (value + added * by).to(tl.bfloat16), mask=inside)


@triton.jit(do_not_specialize=_COUNTS[:1])
def _norm_and_rotate(
    x,
    weight,
    cos,
    sin,
    out,
    tokens,
    dim,
    eps,
    HALF: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    token = row % tokens
    pair = tl.arange(0, BLOCK)  # of one head's first half with its second
    inside = pair < dim // 2
    head, place = pair // HALF, pair % HALF
    first = head * 2 * HALF + place
    second = first + HALF
    a = tl.load(x + row * dim + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + row * dim + second, mask=inside, other=0.0).to(tl.float32)
    norm = tl.rsqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / dim + eps)
    a = a * norm * tl.load(weight + first, mask=inside, other=0.0).to(tl.float32)
    b = b * norm * tl.load(weight + second, mask=inside, other=0.0).to(tl.float32)
    angle = (head * tokens + token) * HALF + place
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + first, (a * c - b * s).to(tl.bfloat16), mask=inside)
    tl.store(out + row * dim + second, (b * c + a * s).to(tl.bfloat16), mask=inside)


@triton.jit(do_not_specialize=_COUNTS[:1])
def _gate_heads(
    heads,
    logits,
    out,
    tokens,
    row_stride,
    token_stride,
    head_stride,
    count,
    SIZE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    program = tl.program_id(0).to(tl.int64)
    row, token = program // tokens, program % tokens
    column = tl.arange(0, BLOCK)
    inside = column < count * SIZE
    head, place = column // SIZE, column % SIZE
    source = heads + row * row_stride + token * token_stride + head * head_stride + place
    value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    logit = tl.load(logits + program * count + head, mask=inside, other=0.0).to(tl.float32)
    gated = value * (2.0 / (1.0 + tl.exp(-logit)))
    tl.store(out + program * count * SIZE + column, gated.to(tl.bfloat16), mask=inside)


@triton.jit
def _upcast_rows(
    weight,
    scale,
    out,
    columns,
    scale_stride,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    by = tl.load(scale + row * scale_stride)
    value = tl.load(weight + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (value * by).to(tl.bfloat16), mask=inside)


@triton.jit
def _quantize_rows(
    tokens,
    out,
    scale,
    columns,
    largest,
    per_largest,
    ROUNDED: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(tokens + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    by = tl.maximum(tl.max(tl.abs(value), axis=0) * per_largest, 1e-30)
    value = value / by
    if ROUNDED:
        value = (value + ROUND) - ROUND
    value = tl.minimum(tl.maximum(value, -largest), largest)
    tl.store(out + row * columns + column, value.to(out.dtype.element_ty), mask=inside)
    tl.store(scale + row, by)


@triton.jit(do_not_specialize=["frames", "padded", "before", "pixels"])
def _norm_silu_and_pad(
    x,
    out,
    frames,
    padded,
    before,
    pixels,
    channels,
    eps,
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    batch, place = tl.program_id(1) // padded, tl.program_id(1) % padded
    frame = tl.minimum(tl.maximum(place - before, 0), frames - 1)  # the first and the last are repeated
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (pixel < pixels)[:, None] & (column < channels)[None, :]
    offset = pixel.to(tl.int64)[:, None] * channels + column[None, :]
    source = (batch * frames + frame).to(tl.int64) * pixels * channels
    target = (batch * padded + place).to(tl.int64) * pixels * channels
    value = tl.load(x + source + offset, mask=inside, other=0.0).to(tl.float32)
    norm = tl.rsqrt(tl.sum(value * value, axis=1) / channels + eps)
    value = value * norm[:, None]
    tl.store(out + target + offset, (value / (1.0 + tl.exp(-value))).to(tl.bfloat16), mask=inside)
