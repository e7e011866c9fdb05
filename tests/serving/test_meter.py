"""The memory meter, with a stand-in for the driver's library."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ltx_a2v.serving.http.service import _gpus
from tests.nvml import ANSWERS, FIRST, GIB, SECOND, STUB
from tests.serving.conftest import ROOT, Server


def test_status_ps_and_metrics(start: Callable[..., Server], answers: Path) -> None:
    environment = {"PYTHONPATH": f"{STUB}:{ROOT}"}
    server = start("--device", "cuda", "--persistent", "--no-standby", environment=environment)
    status = server.client.get("/api/status").json()
    assert status["gpu"] == {"device": "cuda:0", "total": 96 * GIB, "free": 50 * GIB, "used": 46 * GIB, "ours": 0}
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


def test_each_device_has_its_own_figures(start: Callable[..., Server], answers: Path) -> None:
    environment = {"PYTHONPATH": f"{STUB}:{ROOT}"}
    server = start("--devices", "all", "--persistent", "--no-standby", environment=environment)
    server.client.post("/api/load?device=cuda:1")
    held: dict[str, Any] = {**SECOND, "free": 3 * GIB, "processes": {str(server.worker_pid()): 20 * GIB, "44": GIB}}
    answers.write_text(json.dumps({**ANSWERS, "GPU-2222-bbbb": held}))
    first, second = server.client.get("/api/status").json()["workers"]
    gpus = [(gpu["device"], gpu["free"] // GIB, gpu["ours"] // GIB) for each in (first, second) for gpu in each["gpus"]]
    assert gpus == [("cuda:0", 50, 0), ("cuda:1", 3, 20)]
    assert (first["loaded"], second["loaded"], second["device_bytes"] // GIB) == (False, True, 20)
    (model,) = server.client.get("/api/ps").json()["models"]
    assert (model["device"], model["size_vram"] // GIB) == ("cuda:1", 20)
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    free = {s.labels["device"]: s.value // GIB for each in families for s in each.samples if "free_vram" in s.name}
    assert free == {"cuda:0": 50, "cuda:1": 3}


def test_devices_that_work_together(answers: Path) -> None:
    """The worker uses the first one, its helpers the others."""
    helper = subprocess.Popen(["sleep", "60"])
    try:
        processes = {str(helper.pid): 5 * GIB, "44": GIB}
        answers.write_text(json.dumps({**ANSWERS, "GPU-2222-bbbb": {**SECOND, "processes": processes}}))
        first, second = _gpus(("cuda:0", "cuda:1"), os.getpid())
        assert (first.device, second.device, second.ours) == ("cuda:0", "cuda:1", 5 * GIB)
    finally:
        helper.kill()
        helper.wait()
