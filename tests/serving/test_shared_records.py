"""Two servers with one database: any of them answers for any job, and what dies with one is done by the other."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx_a2v.errors import InvalidInput, InvalidRequest
from ltx_a2v.serving.jobs.postgres import PostgresDatabase
from ltx_a2v.serving.main import only_server
from ltx_a2v.serving.work.client import environment_without_key
from ltx_a2v.serving.work.waiting import SystemClock
from ltx_a2v.settings.server import ServerSettings
from tests.postgres import Postgres
from tests.serving.bench import Bench, FullDisk
from tests.serving.conftest import Server, data_url, wait_for, wav

Start = Callable[..., Server]
TINY = {"size": "64x64", "num_frames": 9}


class Pair:
    """Two servers of one database and one bucket."""

    def __init__(self, start: Start, url: str, bucket: str) -> None:
        flags, environment = ("--storage", bucket, "--lease", "2s"), {"LTX_A2V_DATABASE": url}
        self.first, self.second = (
            start(*flags, "--output-dir", f"outputs{number}", environment=environment) for number in range(2)
        )
        self.both = (self.first, self.second)


@pytest.fixture
def pair(start: Start, new_database: Callable[[], str], new_bucket: Callable[[], str]) -> Pair:
    return Pair(start, new_database(), new_bucket())


def test_any_server_answers_for_any_job_and_makes_those_of_one_that_is_killed(pair: Pair) -> None:
    jobs = [pair.first.create("slow=0.1", **TINY, num_inference_steps=400) for _ in range(2)]
    for job in jobs:  # each server has one worker
        for server in pair.both:
            wait_for(lambda server=server, job=job: (v := server.get(job["id"]))["step"] > 0 and v["eta_seconds"])
    with pair.second.client.stream("GET", f"/v1/videos/{jobs[0]['id']}/events") as stream:
        assert pair.first.client.post(f"/v1/videos/{jobs[0]['id']}/cancel").status_code == 200
        told = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert told[-1]["status"] == "cancelled"
    assert pair.second.client.post(f"/v1/videos/{jobs[1]['id']}/cancel").status_code == 200
    assert pair.first.wait(jobs[1]["id"])["status"] == "cancelled"

    body, key = {"prompt": "x", "audio": data_url(wav())}, {"Idempotency-Key": "one"}
    replies = [server.client.post("/v1/videos", json=body, headers=key) for server in pair.both]
    done, *others = {reply.json()["id"] for reply in replies}
    assert others == []
    pair.first.wait(done)
    for server in pair.both:
        assert server.client.get(f"/v1/videos/{done}/content").content[4:8] == b"ftyp"

    jobs = [pair.first.create("slow=0.05", **TINY, num_inference_steps=30) for _ in range(3)]
    wait_for(lambda: [pair.second.get(job["id"])["status"] for job in jobs[:2]] == ["in_progress"] * 2)
    pair.first.stop(signal.SIGKILL)
    ended = [pair.second.wait(job["id"], seconds=60) for job in jobs]
    assert [job["status"] for job in ended] == ["completed"] * 3
    assert 2 in [job["attempts"] for job in ended]
    for job in ended:
        assert pair.second.client.get(f"/v1/videos/{job['id']}/content").content[4:8] == b"ftyp"


def test_a_server_that_was_cut_off_gives_its_job_up(
    bench: Callable[..., Bench], new_database: Callable[[], str]
) -> None:
    """It has not noticed that its job is another's, and comes back while that one works."""
    database = PostgresDatabase(new_database())
    here, there = (
        bench(store=FullDisk(database, lease_seconds=1.5), clock=SystemClock(), standby=False) for _ in range(2)
    )

    async def scenario() -> None:
        job = here.add("slow=0.1", num_inference_steps=1000)
        async with here:
            await here.until(lambda: here.scheduler.running_job(job.id) is not None)
            here.store.is_away = True
            async with there:
                await there.until(lambda: there.scheduler.running_job(job.id) is not None)
                here.store.is_away = False
                await here.until(lambda: here.scheduler.running_job(job.id) is None)
                assert there.scheduler.running_job(job.id) is not None
                record = here.store.get(job.id)
                assert record is not None
                assert (record.state, record.lease, record.attempts) == ("in_progress", 2, 2)
                await there.until(there.folders.work(job.id, 2).exists)
                await there.scheduler.cancel(job)
                await there.until(lambda: there.state(job) == "cancelled")

    asyncio.run(scenario())


def test_a_job_goes_on_while_the_database_is_away(
    bench: Callable[..., Bench], postgres: Postgres, new_database: Callable[[], str]
) -> None:
    one = bench(store=FullDisk(PostgresDatabase(new_database()), lease_seconds=0.5), clock=SystemClock())

    async def scenario() -> None:
        async with one:
            jobs = [one.add("slow=0.02", num_inference_steps=20), one.add()]
            await one.until(lambda: one.scheduler.running_job(jobs[0].id) is not None)
            await asyncio.to_thread(postgres.stop)
            try:
                folder = one.folders.finished(jobs[0].id)
                await one.until(folder.exists)
                assert "cannot be used now" in (one.scheduler.problem() or "")
            finally:
                await asyncio.to_thread(postgres.start)
            await one.until(lambda: one.store.problem() is None)
            await one.until(lambda: [one.state(job) for job in jobs] == ["completed"] * 2)
            records = [one.store.get(job.id) for job in jobs]
            assert [record.attempts for record in records if record] == [1, 1]

    asyncio.run(scenario())


def test_a_server_that_starts_without_its_database_waits_for_it(
    start: Start, postgres: Postgres, new_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_database()
    postgres.stop()
    try:
        server = start(environment={"LTX_A2V_DATABASE": url})
        assert server.client.get("/health").json()["queued"] is None
        reply = server.client.get("/ready")
        assert reply.status_code == 503
        assert "cannot be used now" in reply.json()["problem"]
        body = {"prompt": "x", "audio": data_url(wav())}
        refused = server.client.post("/v1/videos", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unreachable")
        assert server.client.get("/metrics").status_code == 200
        assert not list((tmp_path / "outputs" / ".state" / "inputs").iterdir()), "no half of a job is left"
    finally:
        postgres.start()
    wait_for(lambda: server.client.get("/ready").status_code == 200)
    assert server.make(**TINY)["status"] == "completed"


def test_a_folder_of_servers_with_one_database_is_closed_to_one_without(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    refused = pytest.raises(InvalidInput, match="Another server works in")
    with only_server(lock, shared=True), only_server(lock, shared=True), refused, only_server(lock, shared=False):
        pass
    with only_server(lock, shared=False), refused, only_server(lock, shared=True):
        pass


def test_processes_that_read_files_of_others_get_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LTX_A2V_DATABASE", "LTX_A2V_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in environment_without_key(ServerSettings()).values()


def test_a_lease_that_is_too_short_is_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="'1s' is too short; use 2s or more"):
        ServerSettings(lease="1s").check()
