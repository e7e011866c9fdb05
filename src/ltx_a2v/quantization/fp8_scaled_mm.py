"""e4m3 times e4m3: the storage of fp8-scaled, and activations quantized as they come.

Hopper and later take one scale per token and one per weight row; Ada (8.9) takes one per tensor, and the rows' scales
are applied to the product. A CPU, and shapes the kernel refuses, do the same arithmetic in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.errors import InvalidMode
from ltx_a2v.hardware.driver import compute_capability
from ltx_a2v.kernels import E4M3_MAX, Activation, Form, Quantized, device_of, quantize_rows
from ltx_a2v.quantization.fp8_scaled import Fp8ScaledLinear
from ltx_a2v.quantization.linear import scale_rows_

FP8_UNITS = (8, 9)
"""Compute capability from which a GPU multiplies fp8."""
ROW_WISE = (9, 0)
"""Compute capability from which the kernel takes a scale per row."""


class Fp8ScaledMMLinear(Fp8ScaledLinear):
    """e4m3 with a scale per output row, times activations in e4m3, which other layers may share."""

    summary = "fp8-scaled multiplied by the GPU's fp8 units; activations are rounded to fp8 too."
    multiplied = "fp8 x fp8 (torch._scaled_mm), activations quantized per token"
    upcasts = False

    def input_form(self) -> Form:
        return Form.E4M3 if takes_row_scales(self.weight.device) else Form.VALUES

    def forward(self, input: Tensor | Activation) -> Tensor:
        return fp8_matmul(quantized_of(input), self.weight, self.weight_scale, self.bias)

    @classmethod
    def check_device(cls, mode: str, device: torch.device) -> None:
        if device.type != "cuda":
            return
        # torch would make a CUDA context to answer, and a server that stands by must hold no GPU memory
        capability = compute_capability(str(device)) or torch.cuda.get_device_capability(device)
        if capability >= FP8_UNITS:
            return
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        raise InvalidMode(
            f"{mode} needs a GPU with fp8 units (compute capability 8.9 or later) and {name} has {major}.{minor}: "
            "use fp8-scaled or int8, which take the same memory."
        )


def takes_row_scales(device: torch.device) -> bool:
    device = device_of(device)
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= ROW_WISE


def quantized_of(input: Tensor | Activation) -> Quantized:
    """The quantized rows of an activation, or a tensor quantized: row by row or, where the device takes no more than
    one scale, with a scalar."""
    if isinstance(input, Activation):
        if input.quantized is not None:
            return input.quantized
        input = input.tensor
    if takes_row_scales(input.device):
        return quantize_rows(input)
    whole = quantize_rows(input.reshape(1, -1))
    return Quantized(whole.values.view(input.shape), whole.scale.view(()), input.dtype)


def to_e4m3(tokens: Tensor, scale: Tensor) -> Quantized:
    """By a fixed scale, which lets a value past 448, where a cast alone would give NaN."""
    scaled = torch.div(tokens, scale, out=torch.empty_like(tokens))
    return Quantized(scaled.clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale, tokens.dtype)


def fp8_matmul(input: Quantized, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """[..., out] in the dtype of what was quantized, from `input` [..., in] and e4m3 `weight` [out, in].

    The input's scale is [..., 1] or scalar, `weight_scale` [out] or scalar, both float32.
    """
    tokens = input.values.reshape(-1, weight.shape[1])  # [M, in]
    token_scale = input.scale.reshape(-1, 1) if input.scale.ndim else input.scale
    products = _products(tokens, token_scale, weight, weight_scale, bias, input.dtype)
    return products.view(*input.values.shape[:-1], len(weight))


def _products(
    tokens: Tensor, token_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    if not _kernel_takes(weight):
        products = F.linear(tokens.float(), weight.float()).mul_(token_scale)
        return scale_rows_(products, weight_scale, bias).to(dtype)
    if token_scale.ndim == 2 and weight_scale.ndim == 1:
        rounded = None if bias is None else bias.to(torch.bfloat16)
        return _scaled_mm(tokens, weight, token_scale, weight_scale[None, :], rounded).to(dtype)
    # One scale for the tokens: the weight's is applied to the product, whether it is one or one per row.
    products = _scaled_mm(tokens, weight, token_scale, torch.ones_like(token_scale))
    return scale_rows_(products, weight_scale, bias).to(dtype)


def _kernel_takes(weight: Tensor) -> bool:
    on_gpu = device_of(weight.device).type == "cuda"
    return on_gpu and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0


def _scaled_mm(
    tokens: Tensor, weight: Tensor, token_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """bf16 [M, out]; the second operand must be column-major, which a transposed weight is."""
    if tokens.is_meta:
        return tokens.new_empty((len(tokens), len(weight)), dtype=torch.bfloat16)
    # Fast accumulation, as the reference: its error is well below that of rounding both operands to e4m3.
    return torch._scaled_mm(
        tokens,
        weight.t(),
        scale_a=_aligned(token_scale),
        scale_b=weight_scale,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _aligned(scale: Tensor) -> Tensor:
    """At a multiple of 16 bytes, as cuBLASLt wants it: the scales of one of several passes may start elsewhere."""
    return scale if scale.data_ptr() % 16 == 0 else scale.clone()
