"""The memory of the GPU, others' included, from the driver (torch sees only itself and must not be imported here)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class GpuMemory:
    """Bytes. `ours` is None where the driver does not say (processes in other namespaces)."""

    total: int
    free: int
    used: int
    ours: int | None


def read_memory(device: str, worker_pid: int | None) -> GpuMemory | None:
    """None on a machine without an NVIDIA GPU, or when the device is the CPU."""
    nvml = _nvml()
    if nvml is None or not device.startswith("cuda"):
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(_index(device))
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    return GpuMemory(memory.total, memory.free, memory.used, _bytes_of(processes, worker_pid))


def _bytes_of(processes: list[Any], pid: int | None) -> int | None:
    if pid is None:
        return 0
    held = [process.usedGpuMemory for process in processes if process.pid == pid]
    return sum(held) if held and None not in held else None


def _index(device: str) -> int:
    """The driver's index of torch's device, which `CUDA_VISIBLE_DEVICES` may have renumbered."""
    index = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip().isdigit()]
    return int(visible[index]) if index < len(visible) else index


@cache
def _nvml() -> Any:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
