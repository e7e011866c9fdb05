"""A worker that is stopped, hangs or is killed: it is noticed, replaced, and its job tried again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_a2v.errors import WorkerFailed
from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import Server, fake_engine, is_running, wait_for

Start = Callable[..., Server]


def test_a_stopped_worker_is_killed_and_its_job_tried_again(start: Start) -> None:
    server = start("--worker-silence", "2s")
    job = server.create("slow=0.1")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    pid = server.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    done = server.wait(job["id"], seconds=20)
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert not is_running(pid)
    assert any("gave no sign of life for 2s" in line for line in server.lines)


def test_a_stopped_standby_is_replaced(start: Start) -> None:
    server = start("--worker-silence", "2s")
    wait_for(lambda: server.worker_state() == "standby")
    pid = server.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: server.worker_state() == "standby" and server.worker_pid() != pid, 15)


def test_a_step_that_never_ends_is_cut_off(start: Start, tmp_path: Path) -> None:
    server = start("--step-timeout", "1s")
    done = server.make(f"hang-once={tmp_path / 'hung'}")
    assert (done["status"], done["attempts"]) == ("completed", 2)
    failed = server.make("hang")
    assert failed["error"]["message"] == "The worker process was killed: no step ended within 1s."


@pytest.mark.slow
def test_a_job_of_many_short_steps_and_an_idle_worker_are_left_alone(start: Start) -> None:
    server = start("--step-timeout", "600ms", "--worker-silence", "2s", "--persistent")
    done = server.make("slow=0.2", num_inference_steps=5)
    pid = server.worker_pid()
    time.sleep(2.5)
    assert (done["status"], done["attempts"], server.worker_pid()) == ("completed", 1, pid)


@pytest.mark.slow
def test_a_server_that_stood_still_does_not_blame_its_worker(start: Start) -> None:
    server = start("--worker-silence", "2s", "--step-timeout", "2s")
    job = server.create("slow=0.4", num_inference_steps=12)
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    server.process.send_signal(signal.SIGCONT)
    done = server.wait(job["id"])
    assert (done["status"], done["attempts"]) == ("completed", 1)


def test_a_worker_that_was_killed_from_outside_names_memory(server: Server) -> None:
    job = server.create("slow=0.2")
    for attempt in (1, 2):
        wait_for(lambda n=attempt: (v := server.get(job["id"]))["attempts"] == n and v["phase"] == "stage_1")
        pid = server.worker_pid()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
        os.kill(pid, signal.SIGKILL)
    message = server.wait(job["id"])["error"]["message"]
    assert message == "The worker process was killed by SIGKILL, most likely because the host's memory was used up."


def test_the_worker_does_not_know_the_key(start: Start) -> None:
    server = start(environment={"LTX_A2V_API_KEY": "the-secret-of-this-server"})
    key = {"Authorization": "Bearer the-secret-of-this-server"}
    assert server.client.get("/v1/models", headers=key).status_code == 200
    pid = wait_for(server.worker_pid)
    assert b"the-secret" in Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert b"the-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_an_error_that_is_not_the_devices_keeps_the_worker(server: Server) -> None:
    server.make()
    pid = server.worker_pid()
    assert server.make("python-error")["error"]["code"] == "internal_error"
    assert server.make("disk-full")["error"]["code"] == "storage_full"
    assert server.worker_pid() == pid
    assert server.worker_state() == "idle", "and the loaded model"


def test_the_cause_of_a_death_survives_a_kill_right_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own kill takes the exit status away from its watcher, which then says 255."""
    for name, value in fake_engine(tmp_path).items():
        monkeypatch.setenv(name, value)

    async def scenario() -> None:
        if sys.version_info < (3, 12):  # from there on the default
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.set_child_watcher(watcher)
        worker = await WorkerClient.start(ServerSettings(output_dir=tmp_path, device="cpu"), lambda: None)
        await worker.ready.wait()
        os.kill(worker.pid, signal.SIGSEGV)
        end = time.monotonic() + 10
        while is_running(worker.pid):  # the event loop has no chance to notice
            assert time.monotonic() < end
        worker.kill()
        with pytest.raises(WorkerFailed, match="was killed by SIGSEGV"):
            await worker.receive()

    try:
        asyncio.run(scenario())
    finally:
        if sys.version_info < (3, 12):
            asyncio.set_child_watcher(None)
