"""The machine: its name and software, and the speeds that a step is compared with."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ltx_a2v.bench.device import device_name
from ltx_a2v.hardware import driver
from ltx_a2v.hardware.host_memory import host_memory_total
from ltx_a2v.hardware.streams import wait
from ltx_a2v.kernels.activation import Quantized
from ltx_a2v.quantization.fp8_scaled_mm import fp8_matmul, takes_row_scales
from ltx_a2v.residency.host_copies import HostBuffer

FLOAT8 = "float8"
"""Name of the peak of fp8 products, among those of dtypes."""
_GPU_SIDE, _CPU_SIDE = 8192, 1024
"""Of the square matrices whose product is timed: 1.1 TFLOP, and 2 GFLOP."""
_GROUPS, _PRODUCTS = 4, 8
_BUS_BYTES, _BUS_COPIES = 2**28, 8


def describe(device: torch.device) -> dict[str, Any]:
    """Name of the device, and versions. Nothing in it names the host or its user."""
    is_gpu = device.type == "cuda"
    return {
        "device": device_name(str(device)),
        "driver": driver.driver_version() if is_gpu else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if is_gpu else None,
        "device_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if is_gpu else None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "host_gib": round(host_memory_total() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "diffusers": _version("diffusers"),
        "ltx_a2v": _version("ltx-a2v"),
    }


def measure_speeds(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """TFLOP/s of large matrix products by dtype, the best of several groups, and GB/s from pinned host memory.

    Takes about a second. What the device cannot do is None.
    """
    return {
        "peak_tflops": {str(dtype).removeprefix("torch."): _matmul_tflops(device, dtype), FLOAT8: _fp8_tflops(device)},
        "bus_gb_s": _bus_gb_s(device) if device.type == "cuda" else None,
    }


@torch.inference_mode()
def _matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    side = _GPU_SIDE if device.type == "cuda" else _CPU_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return _rate(lambda: a @ b, 2 * side**3, device)


@torch.inference_mode()
def _fp8_tflops(device: torch.device) -> float | None:
    """As `fp8-scaled-mm` multiplies; None on a CPU, or a GPU without fp8 units."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    a, b = (torch.randn(_GPU_SIDE, _GPU_SIDE, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    rows = (_GPU_SIDE, 1) if takes_row_scales(device) else ()
    scales = torch.ones(rows, device=device), torch.ones(_GPU_SIDE, device=device)
    tokens = Quantized(a, scales[0], torch.bfloat16)
    return _rate(lambda: fp8_matmul(tokens, b, scales[1], None), 2 * _GPU_SIDE**3, device)


def _rate(product: Callable[[], object], flops: int, device: torch.device) -> float:
    """TFLOP/s of the fastest group of products."""
    repeats = _PRODUCTS if device.type == "cuda" else 1
    _seconds(product, 1, device)  # warms up
    seconds = min(_seconds(product, repeats, device) for _ in range(_GROUPS))
    return round(flops * repeats / seconds / 1e12, 4)


def _bus_gb_s(device: torch.device) -> float:
    with torch.cuda.device(device):
        source = HostBuffer(_BUS_BYTES, pinned=True)
    try:
        target = torch.empty(_BUS_BYTES, dtype=torch.uint8, device=device)
        copy = lambda: target.copy_(source.flat, non_blocking=True)  # noqa: E731
        _seconds(copy, 1, device)
        return round(_BUS_BYTES * _BUS_COPIES / _seconds(copy, _BUS_COPIES, device) / 1e9, 2)
    finally:
        source.release()


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return time.perf_counter() - started


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
