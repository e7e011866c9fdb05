"""The memory meter, with a stand-in for the driver's library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ltx_a2v.serving import gpu
from ltx_a2v.serving.gpu import GpuMemory, read_memory
from tests.serving.conftest import ROOT, Server

STUB = Path(__file__).parent / "nvml"
GIB = 2**30
FIRST = {"total": 96 * GIB, "free": 50 * GIB, "processes": {"41": 6 * GIB, "42": 30 * GIB, "43": 10 * GIB}}
SECOND = {"total": 24 * GIB, "free": 23 * GIB, "processes": {"44": GIB}}
SLICE = {"total": 12 * GIB, "free": 10 * GIB, "processes": {}}
ANSWERS = {"GPU-1111-aaaa": FIRST, "GPU-2222-bbbb": SECOND, "MIG-3333": SLICE}


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "nvml.json"
    file.write_text(json.dumps(ANSWERS))
    monkeypatch.setenv("NVML_ANSWERS", str(file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    gpu._nvml.cache_clear()
    yield file
    gpu._nvml.cache_clear()
    sys.modules.pop("pynvml", None)


@pytest.mark.parametrize(
    ("visible", "device", "total"),
    [
        (None, None, 96),
        (None, "cuda", 96),
        (None, "cuda:1", 24),
        (None, "cuda:9", None),
        (None, "cpu", None),
        ("1", "cuda", 24),
        ("1,0", "cuda:1", 96),
        ("GPU-2222-bbbb", "cuda", 24),
        ("GPU-22", "cuda:0", 24),
        ("GPU-2222-bbbb, GPU-1111-aaaa", "cuda:1", 96),
        ("MIG-3333", "cuda", 12),
        ("GPU-9999", "cuda", None),
        ("0", "cuda:1", None),
        ("", "cuda", None),
        ("-1", "cuda", None),
    ],
)
def test_the_gpu_that_torch_would_take(
    answers: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str | None, total: int | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    memory = read_memory(device, None)
    assert (memory and memory.total // GIB) == total


def test_what_is_ours(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_memory("cuda", 42) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, 30 * GIB)
    assert read_memory("cuda", None) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, 0)
    assert read_memory("cuda", 4711) == GpuMemory(96 * GIB, 50 * GIB, 46 * GIB, None), "of another namespace"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3333")
    assert read_memory("cuda", 42) == GpuMemory(12 * GIB, 10 * GIB, 2 * GIB, None)


def test_no_driver(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def fail() -> None:
        raise pynvml.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert read_memory("cuda", None) is None


def test_status_ps_and_metrics(start: Callable[..., Server], answers: Path) -> None:
    environment = {"PYTHONPATH": f"{STUB}:{ROOT}"}
    server = start("--device", "cuda", "--persistent", "--no-standby", environment=environment)
    status = server.client.get("/api/status").json()
    assert status["gpu"] == {"total": 96 * GIB, "free": 50 * GIB, "used": 46 * GIB, "ours": 0}
    assert (status["loaded"], status["device_bytes"]) == (False, 0)
    server.client.post("/api/load")
    held: dict[str, Any] = {**FIRST, "processes": {str(server.worker_pid()): 20 * GIB, "41": 26 * GIB}}
    answers.write_text(json.dumps({"GPU-1111-aaaa": held}))
    status = server.client.get("/api/status").json()
    assert (status["gpu"]["ours"], status["device_bytes"], status["loaded"]) == (20 * GIB, 20 * GIB, True)
    assert server.client.get("/api/ps").json()["models"][0]["size_vram"] == 20 * GIB
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["ltx_a2v_free_vram_bytes"] == 50 * GIB
    assert values["ltx_a2v_used_vram_bytes"] == 46 * GIB
