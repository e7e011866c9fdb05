"""Quality over HTTP: the field, the record, the reply, the default of a distilled checkpoint, the estimate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ltx_a2v.request import GenerationRequest, Guidance
from ltx_a2v.serving.jobs.progress import Estimates, stage_1_passes
from tests.serving.conftest import Server, data_url, wav


def test_the_job_and_its_result_say_the_quality(server: Server) -> None:
    job = server.make(quality="fast", num_frames="9")
    assert job["settings"]["quality"] == "fast"
    assert job["result"]["quality"] == "fast"
    reply = server.client.post("/generate", json={"prompt": "x", "audio": data_url(wav()), "num_frames": 9}).json()
    assert reply["quality"] == "standard"
    assert list(server.client.get("/api/options").json()["qualities"]) == ["standard", "fast"]


def test_a_distilled_checkpoint_makes_quality_fast(start: Callable[..., Server]) -> None:
    server = start("--distilled-checkpoint", "--no-standby")
    assert list(server.client.get("/api/options").json()["qualities"]) == ["fast"]
    assert server.make(num_frames="9")["result"]["quality"] == "fast"
    body = {"prompt": "x", "audio": data_url(wav()), "quality": "standard"}
    reply = server.client.post("/v1/videos", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["param"] == "quality"


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({"quality": "fast"}, 8),
        ({}, 120),
        ({"guidance": Guidance(skip_step=1)}, 60),
        ({"guidance": Guidance(cfg=1, stg=0)}, 60),
        ({"guidance": Guidance(cfg=1, stg=0, modality=1), "num_inference_steps": 10}, 10),
    ],
)
def test_the_remaining_time_follows_the_passes(fields: dict[str, object], passes: int) -> None:
    request = GenerationRequest(prompt="p", audio="a.wav", **fields).model_dump(mode="json")
    assert stage_1_passes(request) == passes
    estimates = Estimates()
    estimates.learn({"stage_1": 24.0}, 120)
    assert estimates.for_job(stage_1_passes(request), loads_first=False) == {"stage_1": 24.0 * passes / 120}


def test_a_record_of_an_earlier_version_is_standard() -> None:
    """It has no quality and no skipped steps."""
    request = GenerationRequest(prompt="p", audio="a.wav").model_dump(mode="json")
    del request["quality"], request["guidance"]["skip_step"]
    assert stage_1_passes(request) == 120
