"""Triton compiles every kernel for GPUs of three generations; no GPU is needed for that."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

from ltx_a2v.kernels import triton_kernels  # noqa: E402  isort: skip  it says what triton is to do
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

QUANTIZED = {"quantized": "*fp8e4nv", "scales": "*fp32"}
BOTH = {"VALUES": True, "E4M3": True}
HELPERS = {"_store"}
"""Compiled as parts of the others."""
KERNELS: dict[str, tuple[dict[str, str], dict[str, object]]] = {
    "_modulate": (
        dict.fromkeys(("x", "scale", "shift", "out"), "*bf16")
        | dict.fromkeys(("tokens", "frame_tokens", "scale_stride", "shift_stride", "dim"), "i32")
        | {"eps": "fp32"}
        | QUANTIZED,
        {"NORM": True, "BLOCK": 4096} | BOTH,
    ),
    "_add_gated": (
        dict.fromkeys(("x", "change", "gate", "out"), "*bf16")
        | dict.fromkeys(("tokens", "frame_tokens", "gate_stride", "dim"), "i32"),
        {"BLOCK": 4096},
    ),
    "_norm_and_rotate": (
        {"x": "*bf16", "weight": "*bf16", "cos": "*fp32", "sin": "*fp32", "out": "*bf16"}
        | dict.fromkeys(("rows", "tokens", "head_stride", "token_stride", "dim"), "i32")
        | {"eps": "fp32"},
        {"HALF": 64, "BLOCK": 2048},
    ),
    "_gate_heads": (
        dict.fromkeys(("heads", "logits", "out"), "*bf16")
        | dict.fromkeys(("tokens", "row_stride", "token_stride", "head_stride", "count"), "i32")
        | QUANTIZED,
        {"SIZE": 128, "BLOCK": 4096} | BOTH,
    ),
    "_gelu": (
        {"x": "*bf16", "out": "*bf16", "dim": "i32"} | QUANTIZED,
        {"BLOCK": 16384} | BOTH,
    ),
    "_upcast_rows": (
        {"weight": "*fp8e4nv", "scale": "*fp32", "out": "*bf16", "columns": "i32", "scale_stride": "i32"},
        {"BLOCK": triton_kernels.COLUMNS},
    ),
    "_merge_low_rank": (
        {"weight": "*i8", "scale": "*fp32", "up": "*bf16", "down": "*bf16", "out": "*bf16"}
        | dict.fromkeys(("rows", "columns", "rank", "scale_stride"), "i32"),
        {
            "SCALED": True,
            "ROWS": triton_kernels.MERGE_ROWS,
            "COLUMNS": triton_kernels.MERGE_COLUMNS,
            "RANKS": triton_kernels.MERGE_RANKS,
            "FACTORS": triton_kernels.FACTORS,
        },
    ),
    "_quantize_rows": (
        {"tokens": "*bf16", "out": "*bf16", "columns": "i32"} | QUANTIZED,
        {"VALUES": False, "E4M3": True, "BLOCK": 4096},
    ),
    "_norm_silu_and_pad": (
        dict.fromkeys(("x", "out"), "*bf16")
        | dict.fromkeys(("frames", "padded", "before", "pixels", "channels"), "i32")
        | {"eps": "fp32"},
        {"ROWS": triton_kernels.PIXEL_VALUES // 128, "BLOCK": 128},
    ),
}


@pytest.mark.parametrize("capability", [89, 90, 120])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name: str, capability: int) -> None:
    types, constants = KERNELS[name]
    kernel = getattr(triton_kernels, name)
    signature = {argument: types.get(argument, "constexpr") for argument in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]


def test_every_kernel_is_compiled_here() -> None:
    kernels = {name for name, value in vars(triton_kernels).items() if isinstance(value, triton.JITFunction)}
    assert kernels == set(KERNELS) | HELPERS
