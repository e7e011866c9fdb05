"""How far a format's weights are from the originals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltx_a2v.quantization.linear import Format, reassign
from ltx_a2v.quantization.modes import format_of_mode


def relative_error(weight: Tensor, format: Format | str) -> float:
    """Frobenius norm of (stored - weight) over that of `weight` [out, in]; 0 for a weight of zeros.

    `format` is a class or the name of a mode.
    """
    chosen = format_of_mode(format) if isinstance(format, str) else format
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    difference = reassign(layer, chosen).dequantize(torch.float32) - weight.float()
    norm = float(weight.float().norm())
    return float(difference.norm()) / norm if norm else float(difference.norm())
