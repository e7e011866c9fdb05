"""Whatever dies, and whenever: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from tests.serving.conftest import Server, data_url, is_running, wait_for, wav

Start = Callable[..., Server]
TINY = {"size": "64x64", "num_frames": 9, "num_inference_steps": 2}


def test_a_segfault_is_tried_again_once_and_then_told(server: Server) -> None:
    job = server.make("crash-at=stage_1")
    assert (job["status"], job["attempts"]) == ("failed", 2)
    assert job["error"] == {
        "code": "worker_failed",
        "message": "The worker process was killed by SIGSEGV.",
        "param": None,
    }
    assert server.make()["status"] == "completed"


@pytest.mark.parametrize(("prompt", "code"), [("cuda-error", "internal_error"), ("device-full", "out_of_memory")])
def test_the_job_after_a_device_error_has_a_fresh_worker(server: Server, prompt: str, code: str) -> None:
    server.make()
    pid = server.worker_pid()
    job = server.make(prompt)
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 1, code)
    assert "second line" not in job["error"]["message"]
    assert server.make()["status"] == "completed"
    assert server.worker_pid() != pid


def test_a_users_mistake_keeps_the_worker(server: Server) -> None:
    server.make()
    pid = server.worker_pid()
    assert server.make("fail-at=stage_1")["status"] == "failed"
    assert server.worker_pid() == pid


def test_an_idle_worker_that_is_killed_is_replaced(server: Server) -> None:
    server.client.post("/api/unload")
    wait_for(lambda: server.worker_state() == "standby")
    pid = server.worker_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.worker_state() == "standby" and server.worker_pid() != pid, 10)


def test_the_worker_does_not_outlive_the_server(start: Start) -> None:
    server = start()
    job = server.create("slow=0.5")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    pid = server.worker_pid()
    server.stop(signal.SIGKILL)
    wait_for(lambda: not is_running(pid), 5)


def test_a_stopped_server_puts_the_running_job_back(start: Start) -> None:
    first = start()
    running, waiting = first.create("slow=0.05"), first.create(num_frames=9)
    wait_for(lambda: first.get(running["id"])["phase"] == "stage_1")
    pid = first.worker_pid()
    os.kill(pid, signal.SIGTERM)  # as service managers do, which signal the whole group
    assert first.stop(signal.SIGTERM) == 0
    assert not is_running(pid)
    second = start()
    jobs = [second.wait(job["id"]) for job in (running, waiting)]
    assert [(job["status"], job["attempts"]) for job in jobs] == [("completed", 1)] * 2
    assert jobs[0]["completed_at"] <= jobs[1]["completed_at"], "it kept its place"


@pytest.mark.slow
def test_a_job_that_was_interrupted_twice_fails(start: Start) -> None:
    server = start()
    job = server.create("slow=0.3")
    for _ in range(2):
        wait_for(lambda server=server: server.get(job["id"])["phase"] == "stage_1")
        server.stop(signal.SIGKILL)
        server = start()
    failed = server.get(job["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "interrupted")
    assert list((server.folder / "outputs").glob(".work-*")) == []


def test_a_waiting_client_is_told_when_the_server_stops(start: Start) -> None:
    server = start()
    with contextlib.suppress(httpx.ReadTimeout):
        server.client.post("/generate", json={"prompt": "x", "audio": data_url(wav())}, timeout=0.001)
    job = server.create("slow=0.3")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    began = time.monotonic()
    with server.client.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        list(lines)
    assert server.stop() == 0
    assert time.monotonic() - began < 5


def test_two_servers_do_not_share_jobs(start: Start) -> None:
    server = start()
    with pytest.raises(pytest.fail.Exception, match="Another server works in"):
        start()
    assert server.make()["status"] == "completed"
