"""The GPU's memory as reported by its driver: of all processes, which torch does not see, and without a CUDA context.

No torch is imported here, since the server's HTTP process uses this too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class GpuMemory:
    """Bytes. `ours` is None where the driver does not report it (a MIG slice, processes in other namespaces)."""

    total: int
    free: int
    used: int
    ours: int | None


def read_memory(device: str | None, *pids: int | None) -> GpuMemory | None:
    """`pids`: processes whose memory is ours. None without an NVIDIA GPU, or when the device is the CPU."""
    nvml = None if (device or "").startswith("cpu") else _nvml()
    if nvml is None:
        return None
    try:
        handle = _handle(nvml, _index(device or "cuda"))
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:
        return None
    return GpuMemory(memory.total, memory.free, memory.used, _held_by(nvml, handle, {pid for pid in pids if pid}))


def memory_holders(device: str) -> list[tuple[int, int]]:
    """Name and bytes of each process that computes on a GPU; empty where the driver does not report them."""
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, _index(device)))
    except nvml.NVMLError:
        return []
    return [(process.pid, process.usedGpuMemory or 0) for process in processes]


def compute_capability(device: str) -> tuple[int, int] | None:
    """As (9, 0); None where the driver does not say."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(_handle(nvml, _index(device)))
    except nvml.NVMLError:
        return None
    return int(major), int(minor)


def gpu_name(device: str | None) -> str | None:
    """As `NVIDIA H100 80GB HBM3`; None without an NVIDIA GPU, or when the device is the CPU."""
    nvml = None if device == "cpu" else _nvml()
    if nvml is None:
        return None
    try:
        return str(nvml.nvmlDeviceGetName(_handle(nvml, _index(device or "cuda"))))
    except nvml.NVMLError:
        return None


def gpu_count() -> int:
    """Of those that torch would see, without asking torch; 0 without a driver."""
    nvml = _nvml()
    if nvml is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return int(nvml.nvmlDeviceGetCount()) if visible is None else _usable(nvml, len(visible.split(",")))
    except nvml.NVMLError:
        return 0


def driver_version() -> str | None:
    nvml = _nvml()
    try:
        return str(nvml.nvmlSystemGetDriverVersion()) if nvml else None
    except nvml.NVMLError:
        return None


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _handle(nvml: Any, index: int) -> Any:
    """Of torch's device with that index, among those that `CUDA_VISIBLE_DEVICES` names by index or UUID, if it is set.

    Raises `NVMLError` where there is none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    names = [name.strip() for name in visible.split(",")]
    name = names[index] if index < len(names) else ""
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    if name.startswith("GPU-"):  # CUDA takes the beginning of a UUID as well, the driver does not
        name = next((uuid for uuid in _uuids(nvml) if uuid.startswith(name)), name)
    return nvml.nvmlDeviceGetHandleByUUID(name)


def _usable(nvml: Any, count: int) -> int:
    """How many of the first `count` there are before one that does not exist, where CUDA stops looking."""
    for index in range(count):
        try:
            _handle(nvml, index)
        except nvml.NVMLError:
            return index
    return count


def _uuids(nvml: Any) -> list[str]:
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    return [nvml.nvmlDeviceGetUUID(handle) for handle in handles]


def _held_by(nvml: Any, handle: Any, pids: set[int]) -> int | None:
    if not pids:
        return 0
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    held = [process.usedGpuMemory for process in processes if process.pid in pids]
    return sum(held) if held and None not in held else None


@cache
def _nvml() -> Any:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
