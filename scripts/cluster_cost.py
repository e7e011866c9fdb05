"""What a job costs the front and the database of a cluster: measured on this machine, without Ray and without a GPU.

    uv run python scripts/cluster_cost.py [--jobs 300]

PostgreSQL (Debian's package, writing through to the disk) and an S3 server (moto's) run here too, so that figures of
the front and the database are processor seconds of their own processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from ltx_a2v.serving.cluster.parts import Front
from ltx_a2v.serving.jobs.postgres import PostgresDatabase
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.settings.cluster import ClusterSettings
from tests.object_store import ObjectStore
from tests.postgres import MISSING, Postgres, running_postgres
from tests.serving.conftest import fake_engine, wav

PORT = 8932
BEATS = 30
"""Of one job: one a second."""
SPEECH_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder, running_postgres(durable=True) as postgres:
        if postgres is None:
            sys.exit(MISSING)
        store = ObjectStore()
        os.environ.update(fake_engine(Path(folder)) | store.environment | {"OMP_NUM_THREADS": "1"})
        os.environ["LTX_A2V_DATABASE"] = postgres.new_database("jobs")
        bucket = store.new_bucket("videos")
        settings = ClusterSettings(storage=f"s3://{bucket}/cost", output_dir=Path(folder), max_queue=10**6)
        measure_database(postgres, jobs)
        front = multiprocessing.get_context("spawn").Process(target=serve, args=(settings.without_secrets(),))
        front.start()
        try:
            measure_front(front.pid or 0, postgres, jobs)
        finally:
            front.terminate()
            front.join()
            store.stop()


def measure_database(postgres: Postgres, jobs: int) -> None:
    """Each statement's time, from one client, and the database's processor time per job."""
    store = JobStore(PostgresDatabase(postgres.new_database("statements")))
    store.count("queued")  # makes the tables
    request = {"prompt": "A woman speaks. " * 30, "audio": "/inputs/audio", "width": 768, "height": 512}
    progress = {"percent": 50, "phase": "stage_1", "step": 15, "steps": 30}
    began = cpu(postgres.process.pid)
    seconds = {"add": timed(jobs, lambda n: store.add(f"video-{n}", request, None, False, 10**6))}
    claimed: list[Job] = []
    seconds["claim"] = timed(jobs, lambda _: claimed.append(store.claim("worker-1") or claimed[0]))
    seconds["beat"] = timed(jobs * BEATS, lambda n: store.beat(claimed[n % jobs], progress))
    seconds["read"] = timed(jobs, lambda n: store.get(f"video-{n}"))
    seconds["complete"] = timed(jobs, lambda n: store.complete(claimed[n].id, request, claimed[n].lease))
    per_statement = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in seconds.items())
    print(f"database, one client: {per_statement}")
    print(f"database, processor: {1000 * (cpu(postgres.process.pid) - began) / jobs:.1f} ms per job of {BEATS} beats")
    print(f"idle claims (an empty queue): {1 / timed(1000, lambda _: store.claim('worker-1')):.0f} a second")
    store.close()


def measure_front(pid: int, postgres: Postgres, jobs: int) -> None:
    """Processor time of the front per request, and of the database where it is more than that of the records."""
    client = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=30)
    while True:
        try:
            client.get("/ready").raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(0.2)
    files, form, ids = {"audio": wav(SPEECH_SECONDS)}, {"prompt": "x", "num_frames": "97"}, []
    costs = {}
    for name, work in {
        "POST /v1/videos": lambda _: ids.append(client.post("/v1/videos", data=form, files=files).json()["id"]),
        "GET /v1/videos/{id}": lambda n: client.get(f"/v1/videos/{ids[n]}").raise_for_status(),
    }.items():
        began, seconds = cpu(pid), timed(jobs, work)
        costs[name] = f"{1000 * (cpu(pid) - began) / jobs:.1f} ms of processor, {1000 * seconds:.1f} ms in all"
    for name, cost in costs.items():
        print(f"front, {name}: {cost}")
    print(f"front, an open event stream of a running job: {watching(pid, postgres, ids[0]):.2f} ms a second")


def watching(pid: int, postgres: Postgres, job: str, streams: int = 50, seconds: float = 10.0) -> float:
    """Processor milliseconds a second that one stream takes, whose job makes progress every second."""

    async def watch(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"/v1/videos/{job}/events") as stream:
            async for _ in stream.aiter_lines():
                pass

    async def measure() -> float:
        store = JobStore(PostgresDatabase(postgres.url("jobs")))
        claimed = store.claim("worker-1")
        assert claimed is not None
        limits = httpx.Limits(max_connections=streams)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=60, limits=limits) as client:
            tasks = [asyncio.create_task(watch(client)) for _ in range(streams)]
            await asyncio.sleep(2)
            began, until = cpu(pid), time.monotonic() + seconds
            step = 0
            while time.monotonic() < until:
                step += 1
                store.beat(claimed, {"percent": step, "phase": "stage_1", "step": step, "steps": 30})
                await asyncio.sleep(1)
            spent = cpu(pid) - began
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        store.close()
        return 1000 * spent / seconds / streams

    return asyncio.run(measure())


def serve(given: dict[str, object]) -> None:
    """The front's own process."""
    import uvicorn

    async def run() -> None:
        app = await Front(given).start()
        await uvicorn.Server(uvicorn.Config(app, port=PORT, log_level="warning", lifespan="off")).serve()

    asyncio.run(run())


def timed(times: int, work) -> float:
    """Seconds of one call."""
    began = time.monotonic()
    for number in range(times):
        work(number)
    return (time.monotonic() - began) / times


def cpu(pid: int) -> float:
    """Processor seconds of a process and its children."""
    total = 0.0
    for process in (pid, *children(pid)):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    print(json.dumps({"processors": os.cpu_count(), "python": sys.version.split()[0]}))
    main()
