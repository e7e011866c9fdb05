"""How long the model stays, for real and with a clock that the test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltx_a2v.errors import WorkerFailed
from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.serving.work.waiting import SystemClock
from tests.serving.bench import Bench
from tests.serving.conftest import Server, data_url, is_running, wait_for, wav

Start = Callable[..., Server]


def test_after_the_keep_alive_the_worker_is_gone(start: Start) -> None:
    server = start("--keep-alive", "700ms")
    wait_for(lambda: server.worker_state() == "standby")
    pid = server.worker_pid()
    server.make()
    assert server.worker_pid() == pid, "the standby did the work"
    assert server.client.get("/api/ps").json()["models"][0]["expires_at"] is not None
    assert is_running(pid)
    wait_for(lambda: not is_running(pid), 5)
    assert server.client.get("/api/ps").json() == {"models": []}
    wait_for(lambda: server.worker_state() == "standby")


def test_cold_start_loads_nothing_ahead_and_keeps_the_process_while_jobs_wait(start: Start) -> None:
    server = start("--cold-start")
    jobs = [server.create(num_frames=9) for _ in range(3)]
    assert [server.wait(job["id"])["status"] for job in jobs] == ["completed"] * 3
    wait_for(lambda: server.worker_state() == "standby")
    assert not any(line.startswith("[load]") for line in server.lines)
    assert sum(line.startswith("[unload]") for line in server.lines) == 1


def test_a_job_says_whether_the_model_is_kept(start: Start) -> None:
    server = start("--cold-start")
    kept = server.make(keep_alive="5m")
    assert "load" in kept["result"]["phases"]
    assert [model["name"] for model in server.client.get("/api/ps").json()["models"]] == ["ltx-2.3-fake"]
    assert "load" not in server.make(keep_alive="0")["result"]["phases"]
    wait_for(lambda: server.client.get("/api/ps").json() == {"models": []}, 5)
    assert "load" not in server.make()["result"]["phases"]


def test_what_was_loaded_by_hand_stays_after_a_cold_start(start: Start) -> None:
    server = start("--cold-start")
    assert server.client.post("/api/load").json() == {"status": "loaded"}
    assert server.client.get("/api/ps").json()["models"][0]["expires_at"] is not None


def test_no_standby_starts_no_process_before_it_is_needed(start: Start) -> None:
    server = start("--no-standby", "--cold-start")
    assert (server.worker_pid(), server.worker_state()) == (None, "none")
    assert server.client.get("/ready").status_code == 200
    assert server.make()["status"] == "completed"
    wait_for(lambda: server.worker_pid() is None, 5)


def test_ready_from_the_first_opened_model_on(start: Start) -> None:
    server = start()

    def answers_until_standby() -> set[tuple[str, int]]:
        seen: set[tuple[str, int]] = set()

        def stands_by() -> bool:
            reply = server.client.get("/ready")
            seen.add((reply.json()["worker"], reply.status_code))
            return reply.json()["worker"] == "standby"

        wait_for(stands_by)
        return seen

    assert (
        {("starting", 503), ("standby", 200)}
        <= answers_until_standby()
        <= {("none", 503), ("starting", 503), ("standby", 200)}
    )
    server.make()
    server.client.post("/api/unload")
    assert {status for _, status in answers_until_standby()} == {200}  # while the next worker starts, too


def test_load_and_unload_by_hand(server: Server) -> None:
    assert server.client.post("/api/load").json() == {"status": "loaded"}
    model = server.client.get("/api/ps").json()["models"][0]
    assert (model["name"], model["expires_at"]) == ("ltx-2.3-fake", None)
    pid = server.worker_pid()
    assert server.client.post("/api/unload").json() == {"status": "unloaded"}
    assert not is_running(pid)
    assert server.client.post("/api/load", json={"keep_alive": "300ms"}).status_code == 200
    wait_for(lambda: server.client.get("/api/ps").json() == {"models": []}, 5)


def test_unload_waits_for_the_running_job(server: Server) -> None:
    job = server.create("slow=0.03")
    server.wait(job["id"], "in_progress")
    assert server.client.post("/api/unload").json() == {"status": "unloading"}
    assert server.wait(job["id"])["status"] == "completed"
    wait_for(lambda: server.client.get("/api/ps").json() == {"models": []}, 5)


@pytest.mark.slow
def test_waits_for_memory_and_then_names_the_need(start: Start, tmp_path: Path) -> None:
    server = start("--vram-wait", "1500ms")
    door = tmp_path / "room"
    job = server.create(f"no-room-until={door}")
    wait_for(lambda: server.get(job["id"])["phase"] == "wait_for_memory")
    door.touch()
    assert server.wait(job["id"])["status"] == "completed"
    reply = server.client.post("/generate", json={"prompt": "no-room", "audio": data_url(wav())})
    assert (reply.status_code, reply.json()["code"]) == (503, "budget_too_small")
    assert "5.00 GiB" in reply.json()["error"]


def test_the_timer_starts_when_the_last_job_ends(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(keep_alive="5m") as b:
            await b.run_job()
            b.clock.time += 299
            assert await b.stays_loaded()
            await b.run_job()
            b.clock.time += 299
            assert await b.stays_loaded(), "the second job restarted the timer"
            b.clock.time += 2
            await b.until(lambda: not b.scheduler.is_loaded)

    asyncio.run(scenario())


def test_a_request_decides_for_the_time_after_it(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(keep_alive="5m") as b:
            await b.run_job("-1")
            b.clock.time += 10**7
            assert await b.stays_loaded()
            await b.run_job("10m")
            b.clock.time += 599
            assert await b.stays_loaded()
            b.clock.time += 2
            await b.until(lambda: not b.scheduler.is_loaded)
            await b.run_job("0")
            await b.until(lambda: not b.scheduler.is_loaded)
            await b.run_job()
            b.clock.time += 299
            assert await b.stays_loaded(), "the next request has the server's default again"

    asyncio.run(scenario())


def test_setting_the_clock_neither_keeps_nor_unloads_the_model(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bench(keep_alive="700ms", clock=SystemClock()) as b:
            await b.run_job()
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + 7 * 86400)
            assert await b.stays_loaded()
            monkeypatch.setattr(time, "time", lambda: now() - 3600)
            began = time.monotonic()
            await b.until(lambda: not b.scheduler.is_loaded)
            assert time.monotonic() - began < 3

    asyncio.run(scenario())


def test_a_load_that_cannot_start_a_process_says_so_and_lets_jobs_pass(bench: Callable[..., Bench]) -> None:
    refusals = 1

    async def start_worker(*arguments: Any) -> WorkerClient:
        nonlocal refusals
        if refusals > 0:
            refusals -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await WorkerClient.start(*arguments)

    async def scenario() -> None:
        async with bench(standby=False, options={"start_worker": start_worker}) as b:
            with pytest.raises(WorkerFailed, match="cannot be started: Resource temporarily unavailable"):
                await asyncio.wait_for(b.scheduler.load(None), 5)
            await b.run_job()

    asyncio.run(scenario())


def test_unload_goes_before_the_jobs_that_wait(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(persistent=True) as b:
            first, second = b.add("slow=0.1"), b.add()
            await b.until(lambda: b.state(first) == "in_progress" and b.scheduler.is_loaded)
            pid = b.worker.pid
            assert await b.scheduler.unload() is False, "a job runs"
            await b.until(lambda: b.state(second) == "completed")
            assert not is_running(pid)
            assert b.worker.pid != pid, "the second job ran on a fresh worker"

    asyncio.run(scenario())


def test_the_state_may_be_asked_while_the_worker_goes(bench: Callable[..., Bench]) -> None:
    """Routes ask from other threads, so the worker may be gone between two looks."""

    async def scenario() -> None:
        b = bench()
        supervisor = b.scheduler.consumers[0].supervisor

        class Going:
            """A worker that is retired as soon as it is asked whether it is ready."""

            dead, loaded, problem = False, False, None

            @property
            def ready(self) -> asyncio.Event:
                supervisor.worker = None
                event = asyncio.Event()
                event.set()
                return event

        supervisor.worker = Going()
        assert b.scheduler.worker_state == "standby"
        assert b.scheduler.worker_state == "none"
        b.store.close()

    asyncio.run(scenario())
