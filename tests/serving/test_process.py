"""The HTTP process: small, quick to start, without torch; what it logs and measures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import Server, wait_for

Start = Callable[..., Server]
HEAVY = ("torch", "av", "numpy", "PIL", "diffusers", "transformers")


def test_never_imports_torch() -> None:
    code = (
        f"import sys, ltx_a2v.cli.main, ltx_a2v.serving.main; print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def cpu_seconds(process: Path) -> float:
    user, system = (process / "stat").read_text().rsplit(") ", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_starts_quickly_and_stays_small(start: Start) -> None:
    server = start()
    process = Path(f"/proc/{server.process.pid}")
    assert cpu_seconds(process) < 3  # of its own: the machine may be busy with others
    server.make()
    resident = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert resident is not None
    assert int(resident[1]) < 150 * 1024
    assert "libtorch" not in (process / "maps").read_text()


def test_log_lines(server: Server) -> None:
    server.client.post("/api/unload")
    job = server.make()
    expected = [
        r"\[server\] A2V listening on http://127\.0\.0\.1:\d+",
        r"\[load\] ltx-2\.3-fake seconds=\d+\.\d\d device=cpu",
        r"\[timing\] encode_prompt=\d+\.\d\ds device=cpu",
        r"\[cuda\] after stage_1: allocated=1\.50GiB reserved=2\.00GiB device=cpu",
        rf"\[job\] completed id={job['id']} .*",
        r"\[http\] POST /v1/videos 200 .*",
    ]
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in server.lines), f"{pattern} in {server.lines}"


def test_log_lines_for_machines(start: Start) -> None:
    server = start("--log-format", "json")
    job = server.make()
    wait_for(lambda: any('"completed"' in line for line in server.lines), 5)
    events = [json.loads(line) for line in server.lines if line.startswith("{")]
    done = next(event for event in events if event["event"] == "job" and event["message"] == "completed")
    assert done["id"] == job["id"]
    assert {"time", "level", "elapsed_s", "peak_gib"} <= set(done)


def test_metrics(start: Start) -> None:
    server = start()
    server.make(num_inference_steps=4)
    server.make("fail-at=stage_1")
    reply = server.client.get("/metrics")
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }
    assert values["ltx_a2v_queue_length",] == 0
    assert values["ltx_a2v_jobs_total", "cpu", "completed"] == 1
    assert values["ltx_a2v_failures_total", "invalid_audio", "cpu"] == 1
    assert values["ltx_a2v_phase_seconds_count", "cpu", "load_audio"] == 2
    assert values["ltx_a2v_step_seconds_count", "cpu", "stage_1"] == 4
    assert values["ltx_a2v_peak_vram_bytes", "cpu"] == 2 * 2**30
    assert (values["ltx_a2v_loads_total", "cpu"], values["ltx_a2v_cold_starts_total", "cpu"]) == (1, 1)
    assert "ltx_a2v_free_vram_bytes" in reply.text


def test_the_launch_line_of_the_script_it_replaces(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gemma").mkdir()
    for name in ("dev.safetensors", "lora.safetensors", "up.safetensors", "gemma/model.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 10)
    server = start(
        *("--checkpoint-path", "dev.safetensors", "--distilled-lora-path", "lora.safetensors"),
        *("--spatial-upsampler-path", "up.safetensors", "--gemma-root", "gemma"),
        *("--output-dir", "outputs/a2v_server", "--transformer-quantization", "fp8-cast", "--cold-start"),
    )
    assert server.client.get("/v1/models").json()["data"][0]["id"] == "dev"
    server.make(keep_alive="-1")
    assert server.client.get("/api/ps").json()["models"][0]["size"] == 40
