"""The weight as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx_a2v.quantization.linear import StoredLinear


class UnquantizedLinear(StoredLinear):
    """The weight as the file has it."""

    summary = "The weights of the file, unchanged; the most memory."
    stored = "bf16"
    multiplied = "bf16"
    upcasts = True

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return {"weight": weight}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)
