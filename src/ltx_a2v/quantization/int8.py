"""int8 with one float32 scale per output row, symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx_a2v.kernels import upcast_rows
from ltx_a2v.quantization.linear import StoredLinear, by_rows, row_scales, scaled_linear

INT8_MAX = 127


def int8_by_row(weight: Tensor) -> dict[str, Tensor]:
    """{"weight": int8 [out, in], "weight_scale": float32 [out]}; halves round to even, -128 is never used."""
    return by_rows(_quantize_rows, weight)


def _quantize_rows(rows: Tensor) -> dict[str, Tensor]:
    scale = row_scales(rows, INT8_MAX)
    return {"weight": (rows / scale[:, None]).round_().to(torch.int8), "weight_scale": scale}


class Int8Linear(StoredLinear):
    """int8 with a scale per output row, upcast in forward."""

    summary = "The bytes of fp8 with about a quarter of its error."
    stored = "int8 and a float32 scale per output row"
    multiplied = "upcast in forward, with its scale"
    upcasts = True

    weight_scale: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return int8_by_row(weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return upcast_rows(self.weight, self.weight_scale, dtype)

    def to_merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        return self.weight, self.weight_scale

    def forward(self, input: Tensor) -> Tensor:
        return scaled_linear(input, self.weight, self.weight_scale, self.bias)
