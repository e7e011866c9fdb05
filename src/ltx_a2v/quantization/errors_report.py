"""How far a format's weights are from the originals."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ltx_a2v.quantization.linear import Format, reassign, row_chunks
from ltx_a2v.quantization.modes import format_of_mode


def relative_error(weight: Tensor, format: Format | str) -> float:
    """Frobenius norm of (stored - weight) over that of `weight` [out, in]; 0 for a weight of zeros.

    `format` is a class or the name of a mode, and must treat rows apart, as those of the modes do: they are compared
    some at a time, so that no float32 copy of a large weight is made.
    """
    chosen = format_of_mode(format) if isinstance(format, str) else format
    lost, whole = 0.0, 0.0
    for rows in (weight.detach()[chunk] for chunk in row_chunks(weight)):
        lost += float((_stored(rows, chosen) - rows.float()).norm()) ** 2
        whole += float(rows.float().norm()) ** 2
    return math.sqrt(lost / whole) if whole else math.sqrt(lost)


def _stored(rows: Tensor, format: Format) -> Tensor:
    """float32 [rows, in]: `rows` as the format keeps them."""
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(rows, requires_grad=False)
    return reassign(layer, format).dequantize(torch.float32)
