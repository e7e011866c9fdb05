"""What a video would take: the plan of the server's worker, and the seconds of its own jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ltx_a2v.request import GenerationRequest, Guidance
from ltx_a2v.serving.jobs.estimate import ExpectedTime, expected_time, measured_peak
from tests.serving.conftest import Server, wait_for

SHAPE = {"width": 128, "height": 64, "num_frames": 9}


def request(**fields: Any) -> dict[str, Any]:
    return GenerationRequest(prompt="p", audio="a.wav", **{**SHAPE, **fields}).model_dump(mode="json")


def done(seconds: float = 10.0, load: float | None = None, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job whose stage 1 took all of its seconds but 2."""
    asked = request(**fields)
    phases = {"encode_prompt": 2.0, "stage_1": seconds - 2.0} | ({} if load is None else {"load": load})
    result = {name: asked[name] for name in SHAPE} | {"phases": phases, "peak_vram_gib": 1.5}
    return asked, {**result, "elapsed_seconds": sum(phases.values())}


def test_nothing_is_guessed_without_a_finished_video() -> None:
    assert expected_time(request(), [], True) == ExpectedTime()
    assert measured_peak(request(), []) is None


def test_jobs_of_the_same_size_give_their_median() -> None:
    jobs = [done(10), done(30), done(12), done(500)]
    assert expected_time(request(), jobs, True) == ExpectedTime(12.0, "this size")


def test_loading_counts_only_where_the_model_is_not_loaded() -> None:
    jobs = [done(10), done(10, load=7)]
    assert expected_time(request(), jobs, is_loaded=True).seconds == 10
    assert expected_time(request(), jobs, is_loaded=False).seconds == 17


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [({"num_inference_steps": 15}, 6.0), ({"guidance": Guidance(cfg=1, stg=0)}, 6.0), ({}, 10.0)],
)
def test_guided_steps_are_scaled_by_their_passes(fields: dict[str, Any], seconds: float) -> None:
    assert expected_time(request(**fields), [done(10)], True) == ExpectedTime(seconds, "this size")


def test_other_sizes_give_a_rough_figure_and_distant_ones_none() -> None:
    assert expected_time(request(width=256), [done(10)], True) == ExpectedTime(18.0, "other sizes")
    assert expected_time(request(width=512), [done(10), done(40, width=256)], True).seconds == 78.0
    assert expected_time(request(width=2048), [done(10)], True) == ExpectedTime()
    assert expected_time(request(quality="fast"), [done(10)], True) == ExpectedTime()


def test_the_peak_of_the_last_job_of_the_same_size() -> None:
    assert measured_peak(request(), [done(width=256), done()]) == int(1.5 * 2**30)
    asked, result = done()
    assert measured_peak(request(), [(asked, {**result, "peak_vram_gib": 0.0})]) is None


def test_over_http(start: Callable[..., Server]) -> None:
    server = start("--keep-alive", "-1")
    wait_for(lambda: server.worker_state() == "standby")
    fits = server.client.get("/api/estimate", params=SHAPE).json()
    assert fits == {
        "seconds": None, "seconds_from": None, "device": "cpu", "peak_bytes": 128 * 64 * 9, "peak_from": "the plan",
        "fits": True, "problem": None, "waiting": 0,
    }  # fmt: skip
    server.make(size="128x64", num_frames=9)
    known = server.client.get("/api/estimate", params=SHAPE).json()
    assert known["seconds"] > 0
    assert (known["seconds_from"], known["peak_from"]) == ("this size", "a video of this size")


def test_what_does_not_fit_says_so(start: Callable[..., Server]) -> None:
    server = start("--max-pixels", str(4096 * 4096))
    wait_for(lambda: server.worker_state() == "standby")
    reply = server.client.get("/api/estimate", params={**SHAPE, "width": 4096}).json()
    assert (reply["fits"], reply["peak_bytes"]) == (False, None)
    assert "needs 5.00 GiB" in reply["problem"]


def test_a_busy_worker_is_not_asked(start: Callable[..., Server]) -> None:
    server = start()
    job = server.create("slow=0.3", num_frames=9, size="128x64")
    server.wait(job["id"], "in_progress")
    reply = server.client.get("/api/estimate", params=SHAPE).json()
    assert (reply["fits"], reply["peak_bytes"], reply["waiting"]) == (None, None, 1)
    server.client.post(f"/v1/videos/{job['id']}/cancel")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"width": 100}, 422, "size"),
        ({"num_frames": 10}, 422, "num_frames"),
        ({"num_inference_steps": 0}, 422, "num_inference_steps"),
        ({"cfg": -1}, 422, "guidance.cfg"),
        ({"width": 4096, "height": 4096}, 413, "size"),
    ],
)
def test_settings_that_no_job_could_have(server: Server, fields: dict[str, Any], status: int, param: str) -> None:
    reply = server.client.get("/api/estimate", params={**SHAPE, **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
