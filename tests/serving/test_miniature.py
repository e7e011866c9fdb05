"""The whole server over the miniature model on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.settings.loading import LoadOptions
from tests.conftest import ROOT
from tests.serving.conftest import Server, is_running, wait_for

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
FIELDS = {"prompt": "A robot speaks.", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 5}
BUDGET = "4GiB"


def start_real(model: ModelPaths, folder: Path, *flags: str) -> Server:
    paths = ["--checkpoint-path", model.checkpoint, "--distilled-lora-path", model.distilled_lora]
    paths += ["--spatial-upsampler-path", model.spatial_upsampler, "--gemma-root", model.gemma_root]
    environment = {"LTX_A2V_ENGINE": "ltx_a2v.session:open_pipeline", "OMP_NUM_THREADS": "1"}
    folders = ["--input-dir", str(EXAMPLES)]
    return Server(folder, *map(str, paths), *folders, *flags, environment=environment)


@pytest.fixture(scope="module")
def real(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a budget that holds everything: within one, the memory that is used is counted on a CPU too."""
    server = start_real(model, tmp_path_factory.mktemp("real"), "--vram-budget", BUDGET)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def tight(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In a budget that holds nothing; started with the other, so that both import at once."""
    flags = ["--vram-budget", "1MiB", "--vram-wait", "1s", "--cold-start"]
    server = start_real(model, tmp_path_factory.mktemp("tight"), *flags)
    yield server
    assert server.stop() == 0


def create(server: Server, **fields: Any) -> dict[str, Any]:
    size = f"{FIELDS['width']}x{FIELDS['height']}"
    rest = {name: value for name, value in FIELDS.items() if name not in ("width", "height")}
    body = {**rest, "size": size, "audio": "speech.wav", "input_reference": "robot.png", **fields}
    reply = server.client.post("/v1/videos", json=body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def generate(server: Server, **fields: Any) -> dict[str, Any]:
    reply = server.client.post("/generate", json={**FIELDS, "audio": "speech.wav", "image": "robot.png", **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_load_and_what_is_loaded(real: Server, model: ModelPaths) -> None:
    assert real.client.post("/api/load").json() == {"status": "loaded"}
    (loaded,) = real.client.get("/api/ps").json()["models"]
    assert loaded["name"] == model.checkpoint.stem
    assert loaded["size"] > model.checkpoint.stat().st_size
    assert loaded["size_vram"] == 0, "on a CPU"
    assert loaded["expires_at"] is not None
    assert "load" not in generate(real)["phases"]


def test_the_same_bytes_as_without_a_server(real: Server, pipeline: A2VPipeline, tmp_path: Path) -> None:
    report = generate(real)
    request = {**FIELDS, "audio": EXAMPLES / "speech.wav", "image": EXAMPLES / "robot.png"}
    alone = pipeline.run(GenerationRequest(**request, output_path=tmp_path / "alone.mp4"))
    served = real.client.get(report["video_url"]).content
    assert sha256(served).digest() == sha256(alone.output_path.read_bytes()).digest()
    assert report["model_version"] == alone.model_version


@pytest.mark.parametrize(("phase", "long"), [("stage_1", {"num_inference_steps": 60}), ("decode", {"num_frames": 121})])
def test_cancel_at_the_next_step(real: Server, phase: str, long: dict[str, int]) -> None:
    job = create(real, **{"num_frames": 25, "size": "256x128", "num_inference_steps": 4, **long})
    wait_for(lambda: real.get(job["id"])["phase"] == phase, 60)
    real.client.post(f"/v1/videos/{job['id']}/cancel")
    assert real.wait(job["id"])["status"] == "cancelled"
    assert list((real.folder / "outputs").glob(f"*{job['id']}*")) == []


def test_malformed_media(real: Server) -> None:
    reply = real.client.post("/generate", json={**FIELDS, "audio": "robot.png"})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_audio"), reply.text


def test_after_the_keep_alive_the_process_is_gone(real: Server) -> None:
    job = create(real, keep_alive="1s")
    assert real.wait(job["id"], seconds=60)["status"] == "completed"
    pid = real.worker_pid()
    assert is_running(pid)
    wait_for(lambda: not is_running(pid), 5)
    assert real.client.get("/api/ps").json() == {"models": []}


def test_a_cold_start_holds_what_the_plan_for_keeping_nothing_says(real: Server, model: ModelPaths) -> None:
    jobs = [create(real, keep_alive=keep_alive)["id"] for keep_alive in (0, "5m")]
    cold, kept = (real.wait(job, seconds=120)["result"] for job in jobs)
    request = GenerationRequest(**FIELDS, audio=EXAMPLES / "speech.wav", image=EXAMPLES / "robot.png")
    options = LoadOptions(budget=Budget(BUDGET), keep="nothing")
    plan = A2VPipeline.open(model, device="cpu", options=options).plan(request)
    peaks = {phase.name: phase.peak / 2**30 for phase in plan.phases}
    peaks["encode_prompt"] = max(peaks.pop("text_encoder"), peaks.pop("connectors"))
    assert cold["memory"].keys() == peaks.keys()
    for phase, counted in cold["memory"].items():
        assert 0 < counted["allocated"] <= peaks[phase], phase
        assert counted["predicted"] == round(peaks[phase], 3) < kept["memory"][phase]["predicted"], phase
    assert ("load" in cold["phases"], "load" in kept["phases"]) == (False, True)


def test_unload_ends_the_process(real: Server) -> None:
    assert real.client.get("/api/ps").json()["models"]
    pid = real.worker_pid()
    assert real.client.post("/api/unload").json() == {"status": "unloaded"}
    assert not is_running(pid)


def test_what_does_not_fit_waits_and_is_told_the_need(tight: Server) -> None:
    job = create(tight)
    wait_for(lambda: tight.get(job["id"])["phase"] == "wait_for_memory", 60)
    failed = tight.wait(job["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "budget_too_small")
    assert re.search(r"the smallest budget that works is \d+\.\d MiB", failed["error"]["message"])
    reply = tight.client.post("/generate", json={**FIELDS, "audio": "speech.wav", "image": "robot.png"})
    assert (reply.status_code, reply.json()["error"]) == (503, failed["error"]["message"])
    wait_for(lambda: any(line.startswith("[unload]") for line in tight.lines), 10)
