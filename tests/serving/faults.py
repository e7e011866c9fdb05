"""What happens to jobs, files and the machine when something breaks. Each function does it to real servers.

`scripts/fault_table.py` prints all of them as the table of docs/security.md; the tests run them in a short form.
A fault takes an empty folder and whether to be `short`. It returns what was done, what came out, and if that is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ltx_a2v.serving.jobs.folders import VIDEO, Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.jobs.retention import Sweeper
from ltx_a2v.settings.server import KeepOutputs
from tests.serving.conftest import FINAL, Server, is_running, wait_for, wav
from tests.serving.records import fill

TINY = {"size": "64x64", "num_frames": 9, "num_inference_steps": 2}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    fault: str
    result: str
    is_right: bool


Fault = Callable[[Path, bool], Row]


def random_kills(folder: Path, short: bool) -> Row:
    """SIGKILL to the server or its worker at random moments, while jobs come in."""
    kills, wanted = (13, 50) if short else (60, 200)
    chance = random.Random(5)
    flags = ("--max-queue", "300")
    server, lines = Server(folder, *flags), []
    answered = [server.create(**TINY)["id"] for _ in range(wanted // 2)]
    for _ in range(kills):
        time.sleep(chance.uniform(0.0, 1.0))
        if chance.random() < 0.5:
            server.stop(signal.SIGKILL)
            lines += server.lines
            server = Server(folder, *flags)
        elif pid := server.worker_pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        room = min(wanted - len(answered), -(-wanted // (2 * kills)))
        answered += [server.create(**TINY)["id"] for _ in range(room)]
    jobs = [server.wait(name, seconds=120) for name in answered]
    lines += server.lines
    states = Counter(job["status"] for job in jobs)
    results = Counter(line.split("id=")[1].split()[0] for line in lines if _tells_a_result(line))
    bad = sum(job["status"] == "completed" and not _has_video(server, job["id"]) for job in jobs)
    left = list((folder / "outputs").glob(".work-*"))
    server.stop()
    intact = _is_intact(folder / "outputs" / ".state" / "jobs.sqlite3")
    stuck, twice = sum(job["status"] not in FINAL for job in jobs), sum(count > 1 for count in results.values())
    return Row(
        f"kill -9 of server or worker at random moments, {kills} times",
        f"{len(answered)} accepted jobs: {states['completed']} completed, {states['failed']} failed after their second "
        f"interruption, 0 lost, {twice} twice, {stuck} stuck, {bad} bad files; database "
        f"{'intact' if intact else 'damaged'}",
        twice == stuck == bad == len(left) == 0 and intact and states["completed"] > 0.8 * len(answered),
    )


def many_posts(folder: Path, short: bool) -> Row:
    """More requests at once than the queue takes."""
    with _served(folder, "--max-queue", "32") as server:
        replies = asyncio.run(_all_at_once(server.base, 200))
        accepted = [reply.json()["id"] for reply, _ in replies if reply.status_code == 200]
        refused = [reply for reply, _ in replies if reply.status_code == 429]
        ends = {server.wait(name, seconds=120)["status"] for name in accepted}
        slowest = sorted(seconds for _, seconds in replies)[-2]
    told_when = all(int(reply.headers["retry-after"]) > 0 for reply in refused)
    return Row(
        "200 uploads at once, queue of 32",
        f"{len(accepted)} accepted and completed, {len(refused)} told to come back (429); p99 {slowest:.2f} s",
        len(accepted) + len(refused) == 200 and len(accepted) >= 32 and ends == {"completed"} and told_when,
    )


def stopped_worker(folder: Path, short: bool) -> Row:
    """SIGSTOP to the worker in the middle of a job."""
    with _served(folder, "--worker-silence", "2s") as server:
        job = server.create("slow=0.1")
        wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
        pid, began = server.worker_pid(), time.monotonic()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: not is_running(pid), 20)
        noticed = time.monotonic() - began
        done = server.wait(job["id"])
    return Row(
        "the worker stops (SIGSTOP), `--worker-silence 2s`",
        f"killed after {noticed:.1f} s, the job {done['status']} at its attempt {done['attempts']}",
        (done["status"], done["attempts"]) == ("completed", 2),
    )


def hung_step(folder: Path, short: bool) -> Row:
    """A step that never ends, once."""
    with _served(folder, "--step-timeout", "1s") as server:
        done = server.make(f"hang-once={folder / 'hung'}")
    return Row(
        "a step that never ends, `--step-timeout 1s`",
        f"killed, the job {done['status']} at its attempt {done['attempts']}",
        (done["status"], done["attempts"]) == ("completed", 2),
    )


def full_output_disk(folder: Path, short: bool) -> Row:
    """No room for videos; then room again."""
    with _disk(folder / "disk") as disk, _served(folder, "--output-dir", str(disk / "o"), "--state-dir", "s") as server:
        _fill_up(disk)
        failed = server.make()
        (disk / "ballast").unlink()
        after = server.make()
    code = failed["error"]["code"]
    return Row(
        "the disk of the outputs is full",
        f"the job fails with `{code}`; with room again, the next one is {after['status']}",
        (code, after["status"]) == ("storage_full", "completed"),
    )


def full_state_disk(folder: Path, short: bool) -> Row:
    """No room for the end of a running job's record; then room again."""
    with _disk(folder / "disk") as disk, _served(folder, "--state-dir", str(disk / "s")) as server:
        job = server.create("slow=0.1")
        wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
        _fill_up(disk)
        reply = wait_for(lambda: _told(server, "not recorded yet") and server.get(job["id"])["status"])
        cancelled = server.client.post(f"/v1/videos/{job['id']}/cancel").status_code
        (disk / "ballast").unlink()
        done = server.wait(job["id"])
    return Row(
        "the disk of the job records is full when a job ends",
        f"{reply} meanwhile, cancel answers {cancelled}; with room again, the job is {done['status']} at its attempt "
        f"{done['attempts']}",
        (reply, cancelled, done["status"], done["attempts"]) == ("in_progress", 503, "completed", 1),
    )


def read_only_outputs(folder: Path, short: bool) -> Row:
    """The outputs' file system turns read-only, as after an error of the disk."""
    with _disk(folder / "disk") as disk, _served(folder, "--output-dir", str(disk / "o"), "--state-dir", "s") as server:
        _mount("-o", "remount,ro", str(disk))
        failed = server.make()
        _mount("-o", "remount,rw", str(disk))
        after = server.make()
    code = failed["error"]["code"]
    return Row(
        "the outputs turn read-only",
        f"the job fails with `{code}`; writable again, the next one is {after['status']}",
        (code, after["status"]) == ("storage_unwritable", "completed"),
    )


def clock_jumps(folder: Path, short: bool) -> Row:
    """The date is set a week forward or back while a fresh video is kept for a day."""
    removed = 0
    for jump in (7 * 86400, -7 * 86400):
        folders = Folders(folder / f"outputs{jump}", folder / f"state{jump}")
        folders.create()
        store = JobStore(folders.state / "jobs.sqlite3")
        wall = [time.time()]
        sweeper = Sweeper(store, folders, KeepOutputs(seconds=86400), wall=lambda wall=wall: wall[0])
        fill(folders.state / "jobs.sqlite3", 100, wall[0])
        wall[0] += jump
        removed += len(sweeper.sweep())
        store.close()
    return Row(
        "the clock is set by a week, forward and back",
        f"{removed} of 200 fresh outputs removed; nothing is for the next hour, and the log says so",
        removed == 0,
    )


def many_records(folder: Path, short: bool) -> Row:
    """50,000 finished jobs whose time is over."""
    state = folder / "outputs" / ".state"
    state.mkdir(parents=True)
    JobStore(state / "jobs.sqlite3").close()
    fill(state / "jobs.sqlite3", 50_000, time.time() - 8 * 86400)
    with _served(folder) as server:
        slowest, end = 0.0, time.monotonic() + 30
        while _unexpired(state) and time.monotonic() < end:
            asked = time.monotonic()
            server.client.get("/health")
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.02)
        swept, left = time.monotonic() - server.began - server.started_in, _unexpired(state)
        began = time.monotonic()
        code = server.stop()
        stopped = time.monotonic() - began
    return Row(
        "50,000 finished jobs whose time is over",
        f"started in {server.started_in:.1f} s, all removed in {swept:.1f} s, /health within {slowest:.2f} s "
        f"meanwhile; SIGTERM {stopped:.1f} s",
        left == 0 and slowest < 1.5 and code == 0 and stopped < 5,
    )


def terminated(folder: Path, short: bool) -> Row:
    """SIGTERM in the middle of a job."""
    server = Server(folder)
    job = server.create("slow=0.05")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    began = time.monotonic()
    code = server.stop()
    seconds = time.monotonic() - began
    with _served(folder) as again:
        done = again.wait(job["id"])
    return Row(
        "SIGTERM with a job running",
        f"ended in {seconds:.1f} s; the next start runs the job, {done['status']} at its attempt {done['attempts']}",
        (code, done["status"], done["attempts"]) == (0, "completed", 1) and seconds < 5,
    )


FAULTS: tuple[Fault, ...] = (
    random_kills,
    many_posts,
    stopped_worker,
    hung_step,
    terminated,
    full_output_disk,
    full_state_disk,
    read_only_outputs,
    clock_jumps,
    many_records,
)
NEED_MOUNT = (full_output_disk, full_state_disk, read_only_outputs)
"""Need root, to mount a small disk."""


@contextlib.contextmanager
def _served(folder: Path, *flags: str) -> Iterator[Server]:
    server = Server(folder, *flags)
    try:
        yield server
    finally:
        with contextlib.suppress(ValueError):  # stopped already
            server.stop()


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """Of 4 MiB; unmounted at the end."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _fill_up(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


async def _all_at_once(base: str, count: int) -> list[tuple[httpx.Response, float]]:
    form = {"prompt": "x", "size": "64x64", "num_frames": "9", "num_inference_steps": "1"}
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=base, timeout=60, limits=limits) as client:

        async def post() -> tuple[httpx.Response, float]:
            began = time.monotonic()
            reply = await client.post("/v1/videos", data=form, files={"audio": wav()})
            return reply, time.monotonic() - began

        return await asyncio.gather(*(post() for _ in range(count)))


def _tells_a_result(line: str) -> bool:
    return line.startswith(("[job] completed", "[job] had finished before"))


def _has_video(server: Server, job_id: str) -> bool:
    return (server.folder / "outputs" / job_id / VIDEO).is_file() and (
        server.client.get(f"/v1/videos/{job_id}/content").status_code == 200
    )


def _is_intact(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def _unexpired(state: Path) -> int:
    with contextlib.closing(sqlite3.connect(state / "jobs.sqlite3", timeout=10)) as db:
        return int(db.execute("SELECT count(*) FROM jobs WHERE expired = 0").fetchone()[0])


def _told(server: Server, words: str) -> Any:
    return any(words in line for line in server.lines)
