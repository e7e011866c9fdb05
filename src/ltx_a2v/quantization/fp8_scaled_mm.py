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
from ltx_a2v.kernels import quantize_rows
from ltx_a2v.quantization.fp8_scaled import E4M3_MAX, Fp8ScaledLinear
from ltx_a2v.quantization.linear import scale_rows_

FP8_UNITS = (8, 9)
"""Compute capability from which a GPU multiplies fp8."""
ROW_WISE = (9, 0)
"""Compute capability from which the kernel takes a scale per row."""


class Fp8ScaledMMLinear(Fp8ScaledLinear):
    summary = "fp8-scaled multiplied by the GPU's fp8 units; activations are rounded to fp8 too."
    multiplied = "fp8 x fp8 (torch._scaled_mm), activations quantized per token"

    def forward(self, input: Tensor) -> Tensor:
        tokens = input.reshape(-1, self.in_features)  # [M, in]
        products = fp8_matmul(*quantize_tokens(tokens), self.weight, self.weight_scale, self.bias, input.dtype)
        return products.view(*input.shape[:-1], self.out_features)

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
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= ROW_WISE


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 [M, in] and float32 scales, [M, 1] or, where the device takes no more than one, scalar."""
    if takes_row_scales(tokens.device):
        return quantize_rows(tokens, E4M3_MAX, torch.float8_e4m3fn)
    quantized, scale = quantize_rows(tokens.reshape(1, -1), E4M3_MAX, torch.float8_e4m3fn)
    return quantized.view(tokens.shape), scale.view(())


def to_e4m3(tokens: Tensor, scale: Tensor) -> Tensor:
    """By a fixed scale, which lets a value past 448, where a cast alone would give NaN."""
    scaled = torch.div(tokens, scale, out=torch.empty_like(tokens))
    return scaled.clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def fp8_matmul(
    tokens: Tensor, token_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`dtype` [M, out] from e4m3 `tokens` [M, in] and `weight` [out, in].

    `token_scale` is [M, 1] or scalar, `weight_scale` [out] or scalar, both float32.
    """
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
    return weight.is_cuda and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0


def _scaled_mm(
    tokens: Tensor, weight: Tensor, token_scale: Tensor, weight_scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """bf16 [M, out]; the second operand must be column-major, which a transposed weight is."""
    # Fast accumulation, as the reference: its error is well below that of rounding both operands to e4m3.
    return torch._scaled_mm(
        tokens,
        weight.t(),
        scale_a=token_scale,
        scale_b=weight_scale,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
