"""4 bits in groups of 32 along the input, one scale per group: the text encoder's format.

The convention is q4_0's, which Gemma's QAT weights were trained for: the value of largest magnitude becomes -8, so the
scale carries its sign, and the others round to -8..7. Error on N(0, 0.02) weights 0.086, against 0.097 for a scale that
maps the largest magnitude to 7.

The scale is bf16. It is an eighth of a weight, so for bf16 weights that is exact at any magnitude, which float16 is not
(weights below 5e-4 make it subnormal); on float32 weights the error is the same to four digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.quantization.linear import StoredLinear, by_rows

GROUP = 32


def int4_by_group(weight: Tensor) -> dict[str, Tensor]:
    """{"weight": uint8 [out, groups * 16], "weight_scale": bf16 [out, groups]}.

    Byte j of a group holds values j (low half) and j + 16, each plus 8. A last, shorter group is filled with zeros.
    """
    return by_rows(_quantize_rows, weight)


def _quantize_rows(rows: Tensor) -> dict[str, Tensor]:
    groups = F.pad(rows, (0, -rows.shape[1] % GROUP)).reshape(len(rows), -1, GROUP)  # [out, groups, 32]
    low, high = groups.aminmax(dim=2)
    scale = (torch.where(-low >= high, low, high) * (-1 / 8)).to(torch.bfloat16)  # [out, groups]
    divisor = torch.where(scale == 0, 1.0, scale.float())
    values = groups.div(divisor[..., None]).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
    packed = values[..., : GROUP // 2] | (values[..., GROUP // 2 :] << 4)  # [out, groups, 16]
    return {"weight": packed.flatten(1), "weight_scale": scale}


def int4_dequantize(packed: Tensor, scale: Tensor, in_features: int, dtype: torch.dtype) -> Tensor:
    """`dtype` [out, in]."""
    halves = packed.view(len(packed), -1, GROUP // 2)  # [out, groups, 16]
    values = torch.cat([halves & 15, halves >> 4], dim=2).to(torch.int8) - 8
    return (values.to(dtype) * scale[..., None].to(dtype)).flatten(1)[:, :in_features]


class Int4Linear(StoredLinear):
    """4 bits with a scale per group of 32 inputs, upcast in forward."""

    summary = "A quarter of bf16; for weights trained for it."
    stored = "4 bits and a bf16 scale per 32 inputs"
    multiplied = "upcast in forward"
    upcasts = True

    weight_scale: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return int4_by_group(weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return int4_dequantize(self.weight, self.weight_scale, self.in_features, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.dequantize(input.dtype), self.bias)
