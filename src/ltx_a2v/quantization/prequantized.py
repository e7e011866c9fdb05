"""Checkpoints that come quantized: e4m3 weights with scalar `weight_scale` and `input_scale`.

Which layers are quantized is what the file says: nothing is converted, and the registry of covered layers is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltx_a2v.errors import InvalidModel
from ltx_a2v.kernels import E4M3_MAX, Activation, Form, upcast_rows
from ltx_a2v.quantization.fp8_scaled_mm import (
    Fp8ScaledMMLinear,
    fp8_matmul,
    quantized_of,
    takes_row_scales,
    to_e4m3,
)
from ltx_a2v.quantization.linear import StoredLinear, row_scales, scaled_linear

TensorInfo = tuple[torch.dtype, Sequence[int]]


class PrequantizedLinear(StoredLinear):
    """e4m3 with one float32 scale per layer, upcast in forward."""

    summary = "What an fp8 checkpoint brings; recognised from the file."
    stored = "e4m3 and a float32 scale per layer, as in the file"
    multiplied = "upcast in forward, with its scale"
    upcasts = True

    weight_scale: Tensor
    input_scale: Tensor | None
    """For fp8 activations; a layer without one takes each token's own."""

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        scale = row_scales(weight.reshape(1, -1), E4M3_MAX).squeeze(0)
        return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return upcast_rows(self.weight, self.weight_scale, dtype)

    def to_merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        return self.weight, self.weight_scale

    def forward(self, input: Tensor) -> Tensor:
        return scaled_linear(input, self.weight, self.weight_scale, self.bias)


class PrequantizedMMLinear(PrequantizedLinear):
    """The same storage; activations are rounded to e4m3 too, by the file's scale or each token's own."""

    multiplied = "fp8 x fp8 (torch._scaled_mm), activations quantized by the file's scale"
    upcasts = False

    def input_form(self) -> Form:
        return Form.E4M3 if self.input_scale is None and takes_row_scales(self.weight.device) else Form.VALUES

    def forward(self, input: Tensor | Activation) -> Tensor:
        if self.input_scale is not None:
            tokens = input.tensor if isinstance(input, Activation) else input
            return fp8_matmul(to_e4m3(tokens, self.input_scale), self.weight, self.weight_scale, self.bias)
        weight_scale = self.weight_scale.expand(self.out_features).contiguous()
        return fp8_matmul(quantized_of(input), self.weight, weight_scale, self.bias)

    @classmethod
    def check_device(cls, mode: str, device: torch.device) -> None:
        Fp8ScaledMMLinear.check_device(mode, device)


@dataclass(frozen=True)
class Prequantized:
    """The quantized layers of one network, as its file has them."""

    layers: frozenset[str]
    with_input_scale: frozenset[str]

    def covers(self, layer: str) -> bool:
        return layer in self.layers

    def add_input_scale(self, name: str, layer: nn.Module) -> None:
        """Where the file has one for the layer, which has its format already; on `meta`."""
        scale = torch.ones_like(layer.get_parameter("weight_scale")) if name in self.with_input_scale else None
        layer.register_parameter("input_scale", None if scale is None else nn.Parameter(scale, requires_grad=False))


def detect(tensors: Mapping[str, TensorInfo]) -> Prequantized | None:
    """What the names, dtypes and shapes of a network's tensors say; None where no weight is e4m3.

    Names are those of the network's module. Raises `InvalidModel` where scales are missing or are not float32 scalars.
    """
    layers = sorted(_layer(name) for name, (dtype, _) in tensors.items() if dtype == torch.float8_e4m3fn)
    if not layers:
        return None
    unusable = [layer for layer in layers if not _scales_are_usable(tensors, layer)]
    if unusable:
        raise InvalidModel(
            f"{len(unusable)} of the {len(layers)} fp8 layers of the checkpoint have no usable scales, the first is "
            f"{unusable[0]}: each needs a float32 scalar weight_scale and may have an input_scale; use a bf16 "
            "checkpoint, or download this one again."
        )
    with_input_scale = frozenset(layer for layer in layers if f"{layer}.input_scale" in tensors)
    return Prequantized(frozenset(layers), with_input_scale)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _scales_are_usable(tensors: Mapping[str, TensorInfo], layer: str) -> bool:
    scales = [tensors.get(f"{layer}.weight_scale"), tensors.get(f"{layer}.input_scale", (torch.float32, ()))]
    return all(scale is not None and scale[0] == torch.float32 and len(scale[1]) == 0 for scale in scales)
