"""Stands in for the driver's library: two GPUs and a MIG slice, as the file `NVML_ANSWERS` describes them.

{"GPU-1111": {"total": 100, "free": 30, "processes": {"6": 20, "7": 50}}, "GPU-2222": …, "MIG-3333": …}
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return sum(uuid.startswith("GPU-") for uuid in _answers())


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    return _known(dict(enumerate(_answers())).get(index))


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    return _known(uuid)


def nvmlDeviceGetUUID(handle: str) -> str:
    return handle


def nvmlDeviceGetMemoryInfo(handle: str) -> SimpleNamespace:
    gpu = _answers()[handle]
    return SimpleNamespace(total=gpu["total"], free=gpu["free"], used=gpu["total"] - gpu["free"])


def nvmlDeviceGetName(handle: str) -> str:
    return f"Stand-in {handle}"


def nvmlSystemGetDriverVersion() -> str:
    return "580.1"


def nvmlDeviceGetCudaComputeCapability(handle: str) -> list[int]:
    try:
        return _answers()[handle]["capability"]
    except KeyError:
        raise NVMLError("Not Supported") from None


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[SimpleNamespace]:
    if handle.startswith("MIG-"):
        raise NVMLError("Not Supported")
    processes = _answers()[handle]["processes"]
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=held) for pid, held in processes.items()]


def _known(uuid: str | None) -> str:
    if uuid not in _answers():
        raise NVMLError("Not Found")
    return str(uuid)


def _answers() -> dict[str, Any]:
    return dict(json.loads(Path(os.environ["NVML_ANSWERS"]).read_text()))
