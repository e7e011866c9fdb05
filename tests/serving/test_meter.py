"""The memory meter, with a stand-in for the driver's library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.nvml import FIRST, GIB, STUB
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
