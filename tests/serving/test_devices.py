"""Several workers behind one queue: here processes on the CPU with the fake pipeline."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.serving.work.changes import Changes
from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.serving.work.outcomes import Outcomes
from ltx_a2v.settings.server import ServerSettings
from tests.serving.bench import Bench
from tests.serving.conftest import Server, wait_for

TWO = "cpu:0,cpu:1"
BOTH = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("two"), "--devices", TWO, "--persistent")
    wait_for(lambda: states(server) == {"cpu:0": "standby", "cpu:1": "standby"})
    yield server
    assert server.stop() == 0


def states(server: Server) -> dict[str, str]:
    return dict(server.client.get("/health").json()["devices"])


def pid_on(server: Server, device: str) -> int:
    """As the log says it of the worker that started there last."""
    line = next(line for line in reversed(server.lines) if "stands by" in line and f"device={device}" in line)
    return int(line.partition("pid=")[2].split()[0])


def metrics(server: Server) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for each in families for sample in each.samples}


def test_two_jobs_run_at_once_and_everything_names_its_device(two: Server, tmp_path: Path) -> None:
    gate = tmp_path / "room"
    jobs = [two.create(f"wait-for={gate}") for _ in range(3)]
    running = [two.wait(job["id"], "in_progress") for job in jobs[:2]]
    assert sorted(job["device"] for job in running) == list(BOTH)
    waiting = two.get(jobs[2]["id"])
    assert (waiting["status"], waiting["device"], waiting["queue_position"]) == ("queued", None, 1)
    told = two.client.get("/api/status").json()
    assert [worker["device"] for worker in told["workers"]] == list(BOTH)
    assert {worker["running"] for worker in told["workers"]} == {job["id"] for job in running}
    assert [model["device"] for model in two.client.get("/api/ps").json()["models"]] == list(BOTH)
    values = metrics(two)
    assert [values["ltx_a2v_running_jobs", device] for device in BOTH] == [1, 1]
    assert two.client.get("/api/estimate?width=768&height=512&num_frames=9").json()["waiting"] == 2
    gate.touch()
    assert [two.wait(job["id"])["status"] for job in jobs] == ["completed"] * 3
    made = metrics(two)
    assert sum(made["ltx_a2v_jobs_total", device, "completed"] for device in BOTH) == 3


def test_a_killed_worker_harms_its_own_job_only(two: Server, tmp_path: Path) -> None:
    gate, hung = tmp_path / "room", tmp_path / "hung"
    jobs = [two.create(prompt) for prompt in (f"hang-once={hung}", f"wait-for={gate}")]
    harmed, other = (two.wait(job["id"], "in_progress") for job in jobs)
    wait_for(hung.exists)
    os.kill(pid_on(two, harmed["device"]), signal.SIGKILL)
    gate.touch()
    again, spared = two.wait(harmed["id"]), two.wait(other["id"])
    assert (spared["status"], spared["attempts"], spared["device"]) == ("completed", 1, other["device"])
    assert (again["status"], again["attempts"]) == ("completed", 2)
    wait_for(lambda: set(states(two).values()) <= {"standby", "idle"}, 20)


def test_cancelling_reaches_the_right_worker(two: Server) -> None:
    jobs = [two.create("slow=0.05", num_inference_steps=20) for _ in range(2)]
    cancelled, kept = (two.wait(job["id"], "in_progress") for job in jobs)
    two.client.post(f"/v1/videos/{cancelled['id']}/cancel")
    assert two.wait(cancelled["id"])["status"] == "cancelled"
    assert two.wait(kept["id"])["status"] == "completed"


def test_load_and_unload_one_device(two: Server) -> None:
    two.client.post("/api/unload")
    assert two.client.get("/api/ps").json() == {"models": []}
    two.client.post("/api/load?device=cpu:1")
    assert [model["device"] for model in two.client.get("/api/ps").json()["models"]] == ["cpu:1"]
    values = metrics(two)
    assert [values["ltx_a2v_model_loaded", device] for device in BOTH] == [0, 1]
    assert two.make()["device"] == "cpu:1", "the one that is loaded takes the job"
    two.client.post("/api/load")
    two.client.post("/api/unload?device=cpu:1")
    assert [model["device"] for model in two.client.get("/api/ps").json()["models"]] == ["cpu:0"]
    refused = two.client.post("/api/load?device=cuda:7")
    assert refused.status_code == 422
    assert "is none of this server's; use cpu:0 or cpu:1" in refused.json()["error"]["message"]


def test_no_job_is_claimed_twice(bench: Callable[..., Bench]) -> None:
    """Of many short jobs, one kills its workers."""

    async def scenario() -> None:
        async with bench(device=None, devices=TWO, persistent=True) as b:
            claimed: list[str] = []
            claim = b.store.claim

            def noted(owner: str) -> Any:
                job = claim(owner)
                claimed.extend([job.id] if job is not None else [])
                return job

            b.store.claim = noted  # type: ignore[method-assign]
            jobs = [b.add("crash-at=stage_2" if number == 3 else "x") for number in range(8)]
            await b.until(lambda: all(b.state(job) in ("completed", "failed") for job in jobs))
            done = [b.store.get(job.id) for job in jobs]
            assert [job.state for job in done if job] == ["failed" if n == 3 else "completed" for n in range(8)]
            assert sorted(claimed) == sorted([*(job.id for job in jobs), jobs[3].id]), "only the crash is tried again"
            assert {job.owner for job in done if job} <= set(BOTH)

    asyncio.run(scenario())


def test_a_worker_that_cannot_start_takes_no_job_from_another(bench: Callable[..., Bench]) -> None:
    async def start_worker(settings: ServerSettings, on_change: Callable[[], None]) -> WorkerClient:
        if len(started) % 2 == 0:
            settings = settings.model_copy(update={"engine": "tests.serving.fakes:missing"})
        started.append(settings)
        return await WorkerClient.start(settings, on_change)

    started: list[ServerSettings] = []

    async def scenario() -> None:
        async with bench(device=None, devices=TWO, options={"start_worker": start_worker}) as b:
            broken, well = b.scheduler.consumers
            await b.until(lambda: broken.state == "broken" and well.state == "standby")
            jobs = [b.add() for _ in range(3)]
            await b.until(lambda: all(b.state(job) == "completed" for job in jobs))
            assert {(b.store.get(job.id) or job).owner for job in jobs} == {well.name}
            assert b.scheduler.worker_state in ("idle", "busy"), "not broken while one is well"

    asyncio.run(scenario())


def test_a_job_without_room_here_goes_to_a_free_worker(bench: Callable[..., Bench]) -> None:
    async def start_worker(settings: ServerSettings, on_change: Callable[[], None]) -> WorkerClient:
        engine = f"tests.serving.fakes:{'full_pipeline' if next(order) == 0 else 'open_pipeline'}"
        return await WorkerClient.start(settings.model_copy(update={"engine": engine}), on_change)

    order = count()

    async def scenario() -> None:
        async with bench(device=None, devices=TWO, options={"start_worker": start_worker}) as b:
            await b.until(lambda: all(each.state == "standby" for each in b.scheduler.consumers))
            job = b.add()
            await b.until(lambda: b.state(job) == "completed")
            done = b.store.get(job.id) or job
            assert (done.owner, done.attempts) == ("cpu:1", 1)

    asyncio.run(scenario())


def test_a_job_that_has_room_nowhere_waits_and_fails_once(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(device=None, devices=TWO, vram_wait="5s") as b:
            await b.until(lambda: all(each.state == "standby" for each in b.scheduler.consumers))
            job = b.add("no-room")
            await b.until(lambda: any(each.progress.phase == "wait_for_memory" for each in b.scheduler.running))
            other = b.add()
            await b.until(lambda: b.state(other) == "completed")

            def failed_a_little_later() -> bool:
                b.clock.time += 0.5
                return b.state(job) == "failed"

            await b.until(failed_a_little_later)  # the workers do not hand it to each other for ever
            assert (b.store.get(job.id) or job).error_code == "budget_too_small"

    asyncio.run(scenario())


def test_each_worker_has_its_own_keep_alive(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        async with bench(device=None, devices=TWO, keep_alive="60s") as b:
            first, second = b.scheduler.consumers
            await b.scheduler.load("1h", "cpu:1")
            await b.scheduler.load(None, "cpu:0")
            b.clock.time += 61
            await b.until(lambda: not first.is_loaded)
            assert second.is_loaded
            assert await b.scheduler.unload()
            assert not b.scheduler.is_loaded

    asyncio.run(scenario())


def test_interrupted_jobs_of_all_workers_are_settled(bench: Callable[..., Bench]) -> None:
    async def scenario() -> None:
        b = bench(device=None, devices=TWO)
        jobs = [b.add() for _ in range(2)]
        assert {b.store.claim(device).owner for device in (*BOTH,)} == set(BOTH)
        async with b:
            await b.until(lambda: all(b.state(job) == "completed" for job in jobs))

    asyncio.run(scenario())


def test_how_many_jobs_end_before_the_next_one(bench: Callable[..., Bench]) -> None:
    b = bench(device=None, devices="cpu:0,cpu:1,cpu:2")
    assert [b.scheduler.jobs_before(queued) for queued in (0, 3)] == [0, 1]
    first, second, third = b.scheduler.consumers
    first.running = second.running = object()  # type: ignore[assignment]
    assert [b.scheduler.jobs_before(queued) for queued in (0, 3)] == [0, 3]
    third.running = first.running
    assert [b.scheduler.jobs_before(queued) for queued in (0, 3)] == [1, 4]
    b.store.close()


@pytest.mark.parametrize(
    ("given", "per_clip", "names", "settings"),
    [
        ("cuda:0,cuda:1", 1, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
        ("cuda:1, cuda:0", 2, ["cuda:1+cuda:0"], ["cuda:1,cuda:0"]),
        ("all", 1, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
        ("cpu:0,cpu:1,cpu:2,cpu:3", 2, ["cpu:0+cpu:1", "cpu:2+cpu:3"], ["cpu", "cpu"]),
    ],
)
def test_groups(answers: Path, given: str, per_clip: int, names: list[str], settings: list[str]) -> None:
    server = ServerSettings(devices=given, gpus_per_clip=per_clip)
    assert [devices.name for devices in server.workers] == names
    assert [server.on(devices).device for devices in server.workers] == settings


@pytest.mark.parametrize(
    ("device", "per_clip", "name"),
    [(None, 1, "cuda:0"), ("cuda", 2, "cuda:0+cuda:1"), ("cuda:1", 1, "cuda:1"), ("cpu", 2, "cpu")],
)
def test_one_worker(answers: Path, device: str | None, per_clip: int, name: str) -> None:
    server = ServerSettings(device=device, gpus_per_clip=per_clip)
    (devices,) = server.workers
    assert (devices.name, devices.setting) == (name, device)


@pytest.mark.parametrize(
    ("given", "more", "says"),
    [
        ("cuda:0,cuda:7", {}, "holds cuda:7, but this machine has 2 GPUs, cuda:0 to cuda:1; name those it has"),
        ("cuda:0,cuda", {}, "names cuda:0 twice; name each device once"),
        ("cpu,cpu:1,cpu:0", {}, "names cpu:0 twice"),
        ("cuda:0,gpu1", {}, "holds 'gpu1', which is no device; write cuda:0,cuda:1 or all"),
        ("cuda:0,", {}, "holds '', which is no device"),
        ("cuda:0,cpu", {}, "are GPUs or the CPU, not both; give one kind"),
        ("cpu:0,cpu:1,cpu:2", {"gpus_per_clip": 2}, "is 3 devices, no multiple of gpus_per_clip 2; add or leave out"),
    ],
)
def test_mistakes(answers: Path, given: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        _ = ServerSettings(devices=given, **more).workers
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"devices {given!r} ")


def test_all_without_a_gpu_and_with_device(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="device and devices exclude each other: give one of them"):
        _ = ServerSettings(device="cuda:0", devices="all").workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InvalidRequest, match="'all' finds no GPU on this machine; use device cpu"):
        _ = ServerSettings(devices="all").workers


def test_an_outcome_is_written_once() -> None:
    """Else a job that is tried again could be put back a second time, after another worker has claimed it."""
    written: list[str] = []

    async def scenario() -> None:
        outcomes = Outcomes(Changes())
        begun, go = threading.Event(), threading.Event()

        def write() -> None:
            written.append("job")
            begun.set()
            assert go.wait(20)

        first = asyncio.create_task(outcomes.record("job", write))
        await asyncio.to_thread(begun.wait, 20)
        second = asyncio.create_task(outcomes.flush())
        await asyncio.sleep(0)  # it waits for the first, or writes
        go.set()
        await asyncio.gather(first, second)

    asyncio.run(scenario())
    assert written == ["job"]
