"""The functions of `pointwise` as Triton kernels: one program per token, per row of a weight, or per few pixels.

All of them read bfloat16 (or 8 bits), compute in float32 and write once. What makes an activation writes it through
`_store`, as bfloat16, as e4m3 with the row's scale, or as both. Triton takes annotations for code, so the kernels'
arguments have none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # a product and a sum rounded once; unset, Triton warns

import triton
import triton.language as tl
from torch import Tensor

from ltx_a2v.kernels.activation import Activation, Form, allocate
from ltx_a2v.kernels.pointwise import E4M3_MAX, TINY

COLUMNS = 2048
"""Of a weight's row that one program converts."""
_LARGEST = tl.constexpr(E4M3_MAX)
_PER_LARGEST = tl.constexpr(1 / E4M3_MAX)
_TINY = tl.constexpr(TINY)
MERGE_ROWS, MERGE_COLUMNS, MERGE_RANKS = 128, 128, 64
"""Of a weight's tile to which a LoRA is added, and of the factors that one product takes. Of seven tiles the fastest on
an H100, with 4 warps: 0.157 ms for int8 16384 x 4096 and rank 384; upcast and addmm take 0.220."""
FACTORS = tl.bfloat16
"""What factors are multiplied in."""
PIXEL_VALUES = 4096
"""Values of neighbouring pixels that one program normalises: its loads fill the GPU's widest ones."""


_COUNTS = ["rows", "tokens", "frame_tokens"]
"""Arguments that kernels are not specialised on, since their values change with the size of the video."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float | None, form: Form = Form.VALUES) -> Activation:
    """With `eps`, of x normalised by its root mean square."""
    x = x.contiguous()
    out = allocate(x.shape, x, form)
    rows, tokens, dim = x.shape
    frames = tokens, tokens // scale.shape[1], _frame_stride(scale), _frame_stride(shift)
    constants = {"NORM": eps is not None, "BLOCK": triton.next_power_of_2(dim)} | _forms(out)
    arguments = (scale, shift, *_tensors(out, x), *frames, dim, eps or 0.0)
    _launch(_modulate, (rows * tokens,), x, *arguments, **constants, num_warps=8)
    return out


def add_gated(x: Tensor, change: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    """Into `out`, contiguous, which may be `x`; by default into a new tensor."""
    x, change = x.contiguous(), change.contiguous()
    out = torch.empty_like(x) if out is None else out
    assert out.is_contiguous()
    rows, tokens, dim = x.shape
    frames = tokens, tokens // gate.shape[1], _frame_stride(gate)
    constants = {"BLOCK": triton.next_power_of_2(dim)}
    _launch(_add_gated, (rows * tokens,), x, change, gate, out, *frames, dim, **constants, num_warps=8)
    return out


def norm_and_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """The tables are read where they lie: diffusers makes them as transposed views, of which each call would copy
    both."""
    x = x.contiguous()
    assert cos.stride() == sin.stride()
    assert cos.stride(3) == 1
    out = torch.empty_like(x)
    rows, tokens, dim = x.shape
    constants = {"HALF": cos.shape[3], "BLOCK": triton.next_power_of_2(dim // 2)}
    arguments = (weight, cos, sin, out, rows, tokens, cos.stride(1), cos.stride(2), dim, eps)
    _launch(_norm_and_rotate, (rows * tokens,), x, *arguments, **constants, num_warps=8)
    return out


def gate_heads(parts: Sequence[Tensor], logits: Tensor, form: Form = Form.VALUES) -> Activation:
    """Each part is written to its rows of one tensor, so that parts are never put together before."""
    logits = logits.contiguous()
    rows, tokens, count = logits.shape
    size = parts[0].shape[3]
    out = allocate(torch.Size((rows, tokens, count * size)), logits, form)
    constants = {"SIZE": size, "BLOCK": triton.next_power_of_2(count * size)} | _forms(out)
    first = 0
    for heads in parts:
        assert heads.stride(3) == 1
        some = slice(first, first + len(heads))
        arguments = (logits[some], *_tensors(out[some], logits), tokens, *heads.stride()[:3], count)
        _launch(_gate_heads, (len(heads) * tokens,), heads, *arguments, **constants, num_warps=8)
        first = some.stop
    return out


def gelu_(x: Tensor, form: Form) -> Activation:
    """Values, where they are asked for, are written over `x`."""
    assert x.is_contiguous()
    out = allocate(x.shape, x, form, values=x)
    rows, tokens, dim = x.shape
    constants = {"BLOCK": triton.next_power_of_2(dim)} | _forms(out)
    _launch(_gelu, (rows * tokens,), x, *_tensors(out, x), dim, **constants, num_warps=16)
    return out


def upcast_rows(weight: Tensor, scale: Tensor) -> Tensor:
    rows, columns = weight.shape
    out = torch.empty((rows, columns), dtype=torch.bfloat16, device=weight.device)
    grid = rows, triton.cdiv(columns, COLUMNS)
    _launch(_upcast_rows, grid, weight, scale, out, columns, int(scale.numel() > 1), BLOCK=COLUMNS, num_warps=4)
    return out


def merge_low_rank(weight: Tensor, scale: Tensor | None, up: Tensor, down: Tensor) -> Tensor:
    rows, columns = weight.shape
    out = torch.empty((rows, columns), dtype=torch.bfloat16, device=weight.device)
    grid = (triton.cdiv(rows, MERGE_ROWS) * triton.cdiv(columns, MERGE_COLUMNS),)
    stride = 0 if scale is None else int(scale.numel() > 1)
    constants = {
        "SCALED": scale is not None,
        "ROWS": MERGE_ROWS,
        "COLUMNS": MERGE_COLUMNS,
        "RANKS": MERGE_RANKS,
        "FACTORS": FACTORS,
    }
    given = weight, up if scale is None else scale, up.contiguous(), down.contiguous(), out
    _launch(_merge_low_rank, grid, *given, rows, columns, up.shape[1], stride, **constants, num_warps=4, num_stages=3)
    return out


def quantize_rows(tokens: Tensor) -> Activation:
    tokens = tokens.contiguous()
    columns = tokens.shape[-1]
    out = allocate(tokens.shape, tokens, Form.E4M3)
    constants = {"BLOCK": triton.next_power_of_2(columns)} | _forms(out)
    _launch(
        _quantize_rows, (tokens.numel() // columns,), tokens, *_tensors(out, tokens), columns, **constants, num_warps=8
    )
    return out


def _forms(out: Activation) -> dict[str, bool]:
    return {"VALUES": out.values is not None, "E4M3": out.quantized is not None}


def _tensors(out: Activation, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_store` writes to: values, their quantized form and its scales; `unused` in place of what is absent."""
    values = unused if out.values is None else out.values
    if out.quantized is None:
        return values, unused, unused
    return values, out.quantized.values, out.quantized.scale


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


@triton.jit
def _store(value, out, quantized, scales, row, dim, column, inside, VALUES: tl.constexpr, E4M3: tl.constexpr):  # noqa: N803
    """A row, which is 0 outside: what is quantized is its bfloat16, whether that is written or not."""
    rounded = value.to(tl.bfloat16)
    if VALUES:
        tl.store(out + row * dim + column, rounded, mask=inside)
    if E4M3:
        wide = rounded.to(tl.float32)
        by = tl.maximum(tl.max(tl.abs(wide), axis=0) * _PER_LARGEST, _TINY)
        within = tl.minimum(tl.maximum(wide / by, -_LARGEST), _LARGEST)
        tl.store(quantized + row * dim + column, within.to(quantized.dtype.element_ty), mask=inside)
        tl.store(scales + row, by)


@triton.jit(do_not_specialize=_COUNTS[1:])
def _modulate(
    x,
    scale,
    shift,
    out,
    quantized,
    scales,
    tokens,
    frame_tokens,
    scale_stride,
    shift_stride,
    dim,
    eps,
    NORM: tl.constexpr,  # noqa: N803
    VALUES: tl.constexpr,  # noqa: N803
    E4M3: tl.constexpr,  # noqa: N803
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
    _store(value * (1.0 + by) + to, out, quantized, scales, row, dim, column, inside, VALUES, E4M3)


@triton.jit(do_not_specialize=_COUNTS[1:])
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


@triton.jit(do_not_specialize=_COUNTS[:2])
def _norm_and_rotate(
    x,
    weight,
    cos,
    sin,
    out,
    rows,
    tokens,
    head_stride,
    token_stride,
    dim,
    eps,
    HALF: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    # Programs of one token follow each other: the tables, twice as large as a row of x, are read from memory once.
    program = tl.program_id(0).to(tl.int64)
    token = program // rows
    row = (program % rows) * tokens + token
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
    angle = head * head_stride + token * token_stride + place
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + first, (a * c - b * s).to(tl.bfloat16), mask=inside)
    tl.store(out + row * dim + second, (b * c + a * s).to(tl.bfloat16), mask=inside)


@triton.jit(do_not_specialize=_COUNTS[1:2])
def _gate_heads(
    heads,
    logits,
    out,
    quantized,
    scales,
    tokens,
    row_stride,
    token_stride,
    head_stride,
    count,
    SIZE: tl.constexpr,  # noqa: N803
    VALUES: tl.constexpr,  # noqa: N803
    E4M3: tl.constexpr,  # noqa: N803
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
    _store(gated, out, quantized, scales, program, count * SIZE, column, inside, VALUES, E4M3)


@triton.jit
def _gelu(
    x,
    out,
    quantized,
    scales,
    dim,
    VALUES: tl.constexpr,  # noqa: N803
    E4M3: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < dim
    value = tl.load(x + row * dim + column, mask=inside, other=0.0).to(tl.float32)
    # x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
    twice = 1.5957691216057308 * (value + 0.044715 * value * value * value)
    _store(value / (1.0 + tl.exp(-twice)), out, quantized, scales, row, dim, column, inside, VALUES, E4M3)


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
def _merge_low_rank(
    weight,
    scale,
    up,
    down,
    out,
    rows,
    columns,
    rank,
    scale_stride,
    SCALED: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    RANKS: tl.constexpr,  # noqa: N803
    FACTORS: tl.constexpr,  # noqa: N803
):
    across = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    change = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)
        left = (row < rows)[:, None] & (ranks < rank)[None, :]
        right = (ranks < rank)[:, None] & (column < columns)[None, :]
        b = tl.load(up + row[:, None] * rank + ranks[None, :], mask=left, other=0.0)
        a = tl.load(down + ranks[:, None] * columns + column[None, :], mask=right, other=0.0)
        change = tl.dot(b.to(FACTORS), a.to(FACTORS), change)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        value = value * tl.load(scale + row * scale_stride, mask=row < rows, other=0.0)[:, None]
    tl.store(out + place, (value + change).to(tl.bfloat16), mask=inside)


@triton.jit
def _quantize_rows(
    tokens,
    out,
    quantized,
    scales,
    columns,
    VALUES: tl.constexpr,  # noqa: N803
    E4M3: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(tokens + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    _store(value, out, quantized, scales, row, columns, column, inside, VALUES, E4M3)


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
