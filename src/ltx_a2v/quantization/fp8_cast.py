"""e4m3 without a scale, weight and bias: the reference's mode, to the bit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.quantization.linear import StoredLinear


class Fp8CastLinear(StoredLinear):
    """A plain cast to e4m3, upcast in forward."""

    summary = "The reference implementation's mode; small weights fall among e4m3's subnormals and lose precision."
    stored = "e4m3, weight and bias, no scale"
    multiplied = "upcast in forward"
    upcasts = True

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        # A plain cast, as in the reference: beyond 448 it gives NaN, which no weight of these networks comes near.
        return {"weight": weight.to(torch.float8_e4m3fn)}

    @staticmethod
    def quantize_bias(bias: Tensor) -> Tensor:
        return bias.to(torch.float8_e4m3fn)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)

    def to_merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        return self.weight, None

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)
