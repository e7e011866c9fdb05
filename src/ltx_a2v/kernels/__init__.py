"""The element-wise work between matrix products, in one pass over memory each.

Every function has two forms. The plain one, in torch, is the definition: CPUs run it, and in float32 its bits are the
reference's. On NVIDIA GPUs in bfloat16 a Triton kernel does the same in float32 registers and rounds once. Without it
launches limit the speed: a block of the real shapes launched over 200 kernels, which took 9 ms to issue and 6.6 ms to
compute (H100, bf16).
"""

from ltx_a2v.kernels.activation import Activation, Form, Quantized
from ltx_a2v.kernels.dispatch import device_of, fused, fused_on, planned_for, problem
from ltx_a2v.kernels.pointwise import (
    E4M3_MAX,
    add_gated,
    add_gated_,
    gate_heads,
    gelu_,
    layout_of,
    merge_low_rank,
    modulate,
    norm_and_modulate,
    norm_and_rotate,
    norm_silu_and_pad,
    pad_frames,
    quantize_rows,
    upcast_rows,
)

__all__ = [
    "E4M3_MAX",
    "Activation",
    "Form",
    "Quantized",
    "add_gated",
    "add_gated_",
    "device_of",
    "fused",
    "fused_on",
    "gate_heads",
    "gelu_",
    "layout_of",
    "merge_low_rank",
    "modulate",
    "norm_and_modulate",
    "norm_and_rotate",
    "norm_silu_and_pad",
    "pad_frames",
    "planned_for",
    "problem",
    "quantize_rows",
    "upcast_rows",
]
