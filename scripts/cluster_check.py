"""Kills fronts, replicas and the caller of a cluster with -9 at random moments while it makes videos, and counts.

    uv run --extra ray python scripts/cluster_check.py [--jobs 100] [--seconds-between-kills 4] [--seed 1]

Everything runs on this machine, without a GPU: Ray with two replicas and two fronts, PostgreSQL (Debian's package), an
S3 server (moto's), and a pipeline that waits instead of computing. A trigger in the database counts how often each job
is completed. Exits with 1 where a job was lost or completed twice, or a file is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.object_store import ObjectStore
from tests.postgres import MISSING, Postgres, running_postgres
from tests.serving.conftest import fake_engine, wav

PORT = 8931
REPLICAS = 2
KEEP_ALIVE = 5
KINDS = ("Replica", "Replica", "Front", "Caller")
"""What is killed, and how often relative to the others."""
AUDIT = """
CREATE TABLE completions (job_id TEXT NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'completed' THEN INSERT INTO completions VALUES (NEW.id); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER note AFTER UPDATE OF state ON jobs FOR EACH ROW EXECUTE FUNCTION note();
"""


class Cluster:
    """`ltx-a2v cluster run` on a free database and bucket."""

    def __init__(self, folder: Path, database: str, store: ObjectStore) -> None:
        self.database = database
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=30)
        flags = {
            **{"port": PORT, "device": "cpu", "storage": f"s3://{store.new_bucket('videos')}/check", "lease": "4s"},
            **{"gpus-per-replica": 0, "replica-resource": "slot", "max-replicas": REPLICAS, "fronts": 2},
            **{"keep-alive": f"{KEEP_ALIVE}s", "max-queue": 1000, "output-dir": folder / "outputs"},
        }
        command = [sys.executable, "-m", "ltx_a2v", "cluster", "run"]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        secrets = {"LTX_A2V_DATABASE": database, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        environment = {**os.environ, **fake_engine(folder), **store.environment, **secrets}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    def until(self, what: str, condition: Any, seconds: float) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        while not condition():
            if self.process.poll() is not None or time.monotonic() - began > seconds:
                sys.exit(f"Not within {seconds:g} s: {what}.")
            time.sleep(0.1)
        return time.monotonic() - began

    def get(self, path: str) -> Any:
        try:
            reply = self.client.get(path)
            return reply.json() if reply.status_code == 200 else None
        except (httpx.HTTPError, json.JSONDecodeError):
            return None

    def create(self, number: int) -> str:
        """Asked again with the same key until a front has answered, as a client does."""
        body = {"prompt": f"slow=0.1 job {number}", "num_frames": "9", "num_inference_steps": "10"}
        while True:
            try:
                key = {"Idempotency-Key": f"job-{number}"}
                reply = self.client.post("/v1/videos", data=body, files={"audio": wav()}, headers=key)
                if reply.status_code == 200:
                    return str(reply.json()["id"])
            except httpx.HTTPError:
                pass
            time.sleep(0.2)

    def processes(self, kind: str) -> list[int]:
        """Ours: those with our database in their environment."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [pid for pid in pids if self._is(pid, kind)]

    def _is(self, pid: int, kind: str) -> bool:
        try:
            process = Path(f"/proc/{pid}")
            named = f"ServeReplica:ltx-a2v:{kind}".encode() in (process / "cmdline").read_bytes()
            return named and self.database.encode() in (process / "environ").read_bytes()
        except OSError:
            return False


class Killer(threading.Thread):
    """Kills one process after the other until it is stopped."""

    def __init__(self, cluster: Cluster, mean_seconds: float, moments: random.Random) -> None:
        super().__init__(daemon=True)
        self.killed: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._cluster, self._mean, self._random = cluster, mean_seconds, moments

    def run(self) -> None:
        while not self.stopped.wait(self._random.uniform(0.2, 2 * self._mean - 0.2)):
            kind = self._random.choice(KINDS)
            if processes := self._cluster.processes(kind):
                os.kill(self._random.choice(processes), signal.SIGKILL)
                self.killed[kind] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seconds-between-kills", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running_postgres() as postgres:
        if postgres is None:
            sys.exit(MISSING)
        store = ObjectStore()
        cluster = Cluster(Path(folder), postgres.new_database("jobs"), store)
        try:
            failed = check(cluster, postgres, options)
        except BaseException:
            print((Path(folder) / "log").read_text()[-3000:])
            raise
        finally:
            cluster.process.send_signal(signal.SIGTERM)
            print(f"stopped with status {cluster.process.wait(120)}")
            store.stop()
    sys.exit(failed)


def check(cluster: Cluster, postgres: Postgres, options: argparse.Namespace) -> int:
    """0 where all is well."""
    print(f"ready after {cluster.until('it is ready', lambda: cluster.get('/ready'), 120):.1f} s")
    with postgres.connect("jobs") as db:
        db.execute(AUDIT)
    scale(cluster)
    killer = Killer(cluster, options.seconds_between_kills, random.Random(options.seed))
    killer.start()
    began = time.monotonic()
    ids = [cluster.create(number) for number in range(options.jobs)]
    print(f"{len(ids)} jobs queued after {time.monotonic() - began:.1f} s")

    def ended() -> bool:
        with postgres.connect("jobs") as db:
            row = db.execute("SELECT count(*) FROM jobs WHERE state IN ('completed', 'failed')").fetchone()
            return row is not None and row[0] >= len(set(ids)) + 2

    seconds = cluster.until("all jobs have ended", ended, 60 + 10.0 * options.jobs) + 0.0
    killer.stopped.set()
    killer.join()
    total = time.monotonic() - began
    print(f"ended after {total:.1f} s (waited {seconds:.1f} s); killed with -9: {dict(killer.killed)}")
    cluster.until("a front answers", lambda: cluster.get("/ready"), 60)
    return report(cluster, postgres, ids)


def scale(cluster: Cluster) -> None:
    """0 -> 2 -> 0."""
    assert not cluster.processes("Replica"), "a replica without a job"
    jobs = [cluster.create(-1 - number) for number in range(REPLICAS)]
    seconds = cluster.until(f"{REPLICAS} replicas", lambda: len(cluster.processes("Replica")) == REPLICAS, 60)
    print(f"0 -> {REPLICAS} replicas: {seconds:.1f} s")

    def done() -> bool:
        return all((cluster.get(f"/v1/videos/{job}") or {}).get("status") == "completed" for job in jobs)

    print(f"both jobs completed: {cluster.until('both jobs', done, 60):.1f} s later")
    seconds = cluster.until("no replica", lambda: not cluster.processes("Replica"), 120)
    print(f"{REPLICAS} -> 0 replicas: {seconds:.1f} s later (keep-alive {KEEP_ALIVE} s)")


def report(cluster: Cluster, postgres: Postgres, ids: list[str]) -> int:
    with postgres.connect("jobs") as db:
        states = Counter(dict(db.execute("SELECT id, state FROM jobs").fetchall()).values())
        attempts = Counter(row[0] for row in db.execute("SELECT attempts FROM jobs"))
        completed = Counter(row[0] for row in db.execute("SELECT job_id FROM completions"))
    twice = [job for job, times in completed.items() if times > 1]
    lost = [job for job in ids if job not in completed]
    without_file = [job for job in ids if not has_video(cluster, job)]
    print(f"jobs by state: {dict(states)}; by attempts: {dict(sorted(attempts.items()))}")
    print(f"ids: {len(set(ids))}; lost: {len(lost)}; completed twice: {len(twice)}; without video: {len(without_file)}")
    return int(bool(lost or twice or without_file or len(set(ids)) != len(ids)))


def has_video(cluster: Cluster, job: str) -> bool:
    for _ in range(20):
        try:
            reply = cluster.client.get(f"/v1/videos/{job}/content")
            if reply.status_code in (200, 404, 409):
                return reply.content[4:8] == b"ftyp"
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    return False


if __name__ == "__main__":
    main()
