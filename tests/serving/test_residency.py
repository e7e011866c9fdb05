"""How long the model stays, for real and with a clock that the test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import JobStore, new_job_id
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.scheduler import Scheduler
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import Server, data_url, fake_engine, is_running, wait_for, wav

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


def test_load_and_unload_by_hand(start: Start) -> None:
    server = start("--persistent")
    assert server.client.post("/api/load").json() == {"status": "loaded"}
    model = server.client.get("/api/ps").json()["models"][0]
    assert (model["name"], model["expires_at"]) == ("ltx-2.3-fake", None)
    pid = server.worker_pid()
    assert server.client.post("/api/unload").json() == {"status": "unloaded"}
    assert not is_running(pid)
    assert server.client.post("/api/load", json={"keep_alive": "300ms"}).status_code == 200
    wait_for(lambda: server.client.get("/api/ps").json() == {"models": []}, 5)


def test_unload_waits_for_the_running_job(start: Start) -> None:
    server = start("--persistent")
    job = server.create("slow=0.03")
    server.wait(job["id"], "in_progress")
    assert server.client.post("/api/unload").json() == {"status": "unloading"}
    assert server.wait(job["id"])["status"] == "completed"
    wait_for(lambda: server.client.get("/api/ps").json() == {"models": []}, 5)


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


class TurnedClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        end = self.time + seconds
        while not event.is_set() and self.time < end:
            await asyncio.sleep(0.001)


class Bench:
    """A scheduler with a real worker process and a turned clock."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.settings = ServerSettings(output_dir=folder, device="cpu", **settings)
        folders = Folders(folder, folder / "state")
        folders.create()
        (folder / "audio").write_bytes(wav())
        self.clock = TurnedClock()
        self.store = JobStore(folder / "jobs.sqlite3")
        self.scheduler = Scheduler(self.settings, self.store, folders, Metrics(), self.clock)
        self._audio = str(folder / "audio")

    async def __aenter__(self) -> Bench:
        await self.scheduler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.scheduler.stop()
        self.store.close()

    async def run_job(self, keep_alive: str | None = None) -> None:
        request = {"prompt": "x", "audio": self._audio, "num_frames": 9, "num_inference_steps": 1}
        job = self.store.add(new_job_id(), request, keep_alive, False, 10)
        self.scheduler.wake()
        await self.until(lambda: (self.store.get(job.id) or job).state == "completed" and not self.scheduler.running)

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)

    async def stays_loaded(self) -> bool:
        await asyncio.sleep(0.05)
        return self.scheduler.is_loaded


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    for name, value in fake_engine(tmp_path).items():
        monkeypatch.setenv(name, value)
    return lambda **settings: Bench(tmp_path, **settings)


def test_the_timer_starts_when_the_last_job_ends(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(keep_alive="5m") as b:
            await b.run_job()
            b.clock.time += 299
            assert await b.stays_loaded()
            await b.run_job()
            b.clock.time += 299
            assert await b.stays_loaded(), "the second job started the timer anew"
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
