"""int8 with one float32 scale per output row, symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx_a2v.kernels import quantize_rows, upcast_rows
from ltx_a2v.quantization.linear import StoredLinear, by_rows, row_scales, scale_rows_, scaled_linear

INT8_MAX = 127


def int8_by_row(weight: Tensor) -> dict[str, Tensor]:
    """{"weight": int8 [out, in], "weight_scale": float32 [out]}; halves round to even, -128 is never used."""
    return by_rows(_quantize_rows, weight)


def _quantize_rows(rows: Tensor) -> dict[str, Tensor]:
    scale = row_scales(rows, INT8_MAX)
    return {"weight": (rows / scale[:, None]).round_().to(torch.int8), "weight_scale": scale}


class Int8Linear(StoredLinear):
    summary = "The bytes of fp8 with about a quarter of its error."
    stored = "int8 and a float32 scale per output row"
    multiplied = "upcast in forward, with its scale"

    weight_scale: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return int8_by_row(weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return upcast_rows(self.weight, self.weight_scale, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return scaled_linear(input, self.weight, self.weight_scale, self.bias)


class Int8MMLinear(Int8Linear):
    """The same storage; activations quantized per token, int8 x int8. Off by default: it changes the numbers."""

    multiplied = "int8 x int8 (torch._int_mm), activations quantized per token"

    def forward(self, input: Tensor) -> Tensor:
        tokens = input.reshape(-1, self.in_features)  # [M, in]
        if not _kernel_takes(tokens, self.weight):
            return super().forward(input)
        quantized, scale = quantize_rows(tokens, INT8_MAX, torch.int8)
        sums = torch._int_mm(quantized, self.weight.t())  # int32 [M, out]
        products = torch.mul(sums, scale, out=torch.empty_like(sums, dtype=input.dtype))
        return scale_rows_(products, self.weight_scale, self.bias).view(*input.shape[:-1], self.out_features)


def _kernel_takes(tokens: Tensor, weight: Tensor) -> bool:
    """cuBLASLt wants more than 16 tokens and dimensions that are multiples of 8; the CPU takes anything."""
    return not weight.is_cuda or (len(tokens) > 16 and all(size % 8 == 0 for size in weight.shape))
