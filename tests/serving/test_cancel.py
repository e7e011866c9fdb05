"""Cancel, wherever the job is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.serving.conftest import Server, wait_for

Start = Callable[..., Server]


@pytest.mark.parametrize("phase", ["stage_1", "stage_2", "decode"])
def test_stops_at_the_next_step(server: Server, phase: str) -> None:
    job = server.create("slow=0.3", num_inference_steps=3)
    wait_for(lambda: (now := server.get(job["id"]))["phase"] == phase and now["step"] >= 1)
    began = time.monotonic()
    reply = server.client.post(f"/v1/videos/{job['id']}/cancel").json()
    assert reply["cancelling"] or reply["status"] == "cancelled"
    cancelled = server.wait(job["id"])
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", None)
    assert time.monotonic() - began < 1
    assert list((server.folder / "outputs").glob(f"*{job['id']}*")) == []
    assert server.client.post(f"/v1/videos/{job['id']}/cancel").status_code == 200, "once more does no harm"


@pytest.mark.parametrize("phase", ["load", "load_audio", "encode_prompt", "encode_audio"])
def test_stops_after_a_phase_without_steps(server: Server, phase: str) -> None:
    server.client.post("/api/unload")
    said = len(server.lines)
    job = server.create("slow-phase=0.4", keep_alive="5m" if phase == "load" else "0")
    wait_for(lambda: server.get(job["id"])["phase"] == phase)
    assert server.client.post(f"/v1/videos/{job['id']}/cancel").json()["cancelling"]
    assert server.wait(job["id"], seconds=2)["status"] == "cancelled"
    assert list((server.folder / "outputs").glob(f"*{job['id']}*")) == []
    assert not any(line.startswith("[timing] stage_1") for line in server.lines[said:])


def test_the_worker_survives_a_cancel(server: Server) -> None:
    server.make()
    pid = server.worker_pid()
    job = server.create("slow=0.1")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert server.wait(job["id"])["status"] == "cancelled"
    assert server.make()["status"] == "completed"
    assert server.worker_pid() == pid


def test_a_worker_that_does_not_stop_is_killed(start: Start) -> None:
    server = start("--cancel-grace", "300ms")
    job = server.create("hang")
    wait_for(lambda: server.get(job["id"])["phase"] == "load_audio")
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert server.wait(job["id"], seconds=5)["status"] == "cancelled"
    assert server.make()["status"] == "completed"


def test_while_queued(server: Server) -> None:
    first, second = server.create("slow=0.05"), server.create()
    assert server.client.post(f"/v1/videos/{second['id']}/cancel").json()["status"] == "cancelled"
    server.client.post(f"/v1/videos/{first['id']}/cancel")


def test_while_the_worker_starts(start: Start) -> None:
    server = start("--no-standby")
    job = server.create()
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert server.wait(job["id"], seconds=5)["status"] == "cancelled"


def test_while_it_waits_for_memory(start: Start) -> None:
    server = start()
    job = server.create("no-room")
    wait_for(lambda: server.get(job["id"])["phase"] == "wait_for_memory")
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert server.wait(job["id"], seconds=3)["status"] == "cancelled"


def test_too_late(server: Server) -> None:
    job = server.make(num_frames=9)
    reply = server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")
    assert server.get(job["id"])["status"] == "completed"
