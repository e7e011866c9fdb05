"""The whole server over the miniature model on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from tests.conftest import ROOT
from tests.serving.conftest import Server, is_running, wait_for

pytestmark = pytest.mark.slow

FIELDS = {"prompt": "A robot speaks.", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def real(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--checkpoint-path", model.checkpoint, "--distilled-lora-path", model.distilled_lora]
    flags += ["--spatial-upsampler-path", model.spatial_upsampler, "--gemma-root", model.gemma_root]
    environment = {"LTX_A2V_ENGINE": "ltx_a2v.opening:open_pipeline", "OMP_NUM_THREADS": "2"}
    folder = tmp_path_factory.mktemp("real")
    server = Server(folder, *map(str, flags), "--input-dir", str(ROOT / "examples"), environment=environment)
    yield server
    assert server.stop() == 0


def test_the_same_bytes_as_without_a_server(real: Server, pipeline: A2VPipeline, tmp_path: Path) -> None:
    body = {**FIELDS, "audio": "speech.wav", "image": "robot.png"}
    reply = real.client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    examples = ROOT / "examples"
    request = {**FIELDS, "audio": examples / "speech.wav", "image": examples / "robot.png"}
    alone = pipeline.run(GenerationRequest(**request, output_path=tmp_path / "alone.mp4"))
    served = real.client.get(reply.json()["video_url"]).content
    assert sha256(served).digest() == sha256(alone.output_path.read_bytes()).digest()
    assert reply.json()["model_version"] == alone.model_version


@pytest.mark.parametrize("phase", ["stage_1", "stage_2"])
def test_cancel_at_the_next_step(real: Server, phase: str) -> None:
    sizes = {"num_frames": 25, "size": "256x128", "num_inference_steps": 4}
    job = real.client.post("/v1/videos", json={"prompt": "A robot speaks.", "audio": "speech.wav", **sizes}).json()
    wait_for(lambda: real.get(job["id"])["phase"] == phase, 60)
    real.client.post(f"/v1/videos/{job['id']}/cancel")
    assert real.wait(job["id"])["status"] == "cancelled"
    assert list((real.folder / "outputs").glob(f"*{job['id']}*")) == []


def test_malformed_media(real: Server) -> None:
    reply = real.client.post("/generate", json={**FIELDS, "audio": "robot.png"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_audio"), reply.text


def test_unload_ends_the_process(real: Server) -> None:
    real.client.post("/generate", json={**FIELDS, "audio": "speech.wav"})
    pid = real.worker_pid()
    assert real.client.post("/api/unload").json() == {"status": "unloaded"}
    assert not is_running(pid)
