"""e4m3 with one float32 scale per output row, upcast in forward."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx_a2v.kernels import E4M3_MAX, upcast_rows
from ltx_a2v.quantization.linear import StoredLinear, by_rows, row_scales, scaled_linear


def e4m3_by_row(weight: Tensor) -> dict[str, Tensor]:
    """{"weight": e4m3 [out, in], "weight_scale": float32 [out]}; each row's largest magnitude becomes 448."""
    return by_rows(_quantize_rows, weight)


def _quantize_rows(rows: Tensor) -> dict[str, Tensor]:
    scale = row_scales(rows, E4M3_MAX)
    return {"weight": (rows / scale[:, None]).to(torch.float8_e4m3fn), "weight_scale": scale}


class Fp8ScaledLinear(StoredLinear):
    """e4m3 with a scale per output row, upcast in forward."""

    summary = "The bytes of fp8-cast with less error."
    stored = "e4m3 and a float32 scale per output row"
    multiplied = "upcast in forward, with its scale"
    upcasts = True

    weight_scale: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return e4m3_by_row(weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return upcast_rows(self.weight, self.weight_scale, dtype)

    def to_merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        return self.weight, self.weight_scale

    def forward(self, input: Tensor) -> Tensor:
        return scaled_linear(input, self.weight, self.weight_scale, self.bias)
