"""NF4 of bitsandbytes: the library quantizes and dequantizes, its bytes and scales are plain parameters here.

The flattened weight is divided into blocks of 64, across row ends. bitsandbytes defines it so, but its CPU kernel
starts a new block with every row when it dequantizes (0.50.2): where the row length is not a multiple of 64, the error
is 0.28 instead of 0.09, without a warning. As one long row, padded to whole blocks, the result is right on every
device.

The scales stay float32; quantizing them again would save 0.37 of 4.5 bits per weight.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.errors import InvalidMode
from ltx_a2v.quantization.linear import StoredLinear, by_rows
from ltx_a2v.quantization.quiet import quiet

BLOCK = 64


@cache
def bitsandbytes() -> ModuleType:
    """The library, imported when first needed."""
    with quiet("bitsandbytes"):  # recommends a faster kernel for single tokens, which is never used here
        import bitsandbytes

    return bitsandbytes


class BnbNf4Linear(StoredLinear):
    """NF4 in blocks of 64 weights, upcast in forward."""

    summary = "bitsandbytes' NF4; a quarter of bf16."
    stored = "4 bits and a float32 scale per 64 weights"
    multiplied = "upcast in forward"
    upcasts = True
    extra = "bnb"

    weight_absmax: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """{"weight": uint8 [blocks, 32], "weight_absmax": float32 [blocks]}; on a CPU and a GPU, ties may differ."""
        blocks = F.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
        return by_rows(_quantize_blocks, blocks)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        functional = bitsandbytes().functional
        state = functional.QuantState(
            absmax=self.weight_absmax,
            shape=torch.Size([self.weight.numel() * 2]),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        values: Tensor = functional.dequantize_4bit(self.weight.reshape(-1, 1), state)
        return values.flatten()[: self.out_features * self.in_features].view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.dequantize(input.dtype), self.bias)

    @classmethod
    def check_device(cls, mode: str, device: torch.device) -> None:
        if not _has_kernels(bitsandbytes().cextension, device):
            raise InvalidMode(
                f"{mode}: the installed bitsandbytes has no compiled kernels for {device.type} here; use int4."
            )


def _quantize_blocks(blocks: Tensor) -> dict[str, Tensor]:
    packed, state = bitsandbytes().functional.quantize_4bit(blocks, blocksize=BLOCK, quant_type="nf4")
    return {"weight": packed.view(-1, BLOCK // 2), "weight_absmax": state.absmax}


def _has_kernels(extension: Any, device: torch.device) -> bool:
    """Without them it would fail on a GPU, and on a CPU call a C++ compiler."""
    if device.type == "cuda":
        return bool(extension.lib.compiled_with_cuda)
    return not isinstance(extension.lib, extension.ErrorHandlerMockBNBNativeLibrary)
