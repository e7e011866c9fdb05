"""Full disks, folders that refuse, damaged files: no job is stuck, and the server says what is wrong."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ltx_a2v.errors import InvalidInput, StorageFailed, Unavailable
from ltx_a2v.serving.jobs.folders import RESULT, THUMBNAIL, VIDEO, Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.jobs.storage import PROBE_SECONDS, StorageProbe
from tests.serving.bench import Bench
from tests.serving.conftest import Server, fake_engine, wait_for

Start = Callable[..., Server]
MakeBench = Callable[..., Bench]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writing beyond `size` fails in this process, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "outputs", tmp_path / "state")
    folders.create()
    return folders


def refused_start(folder: Path, *flags: str) -> str:
    """What a server says that does not start."""
    command = [sys.executable, "-m", "ltx_a2v", "serve", "--port", "0", "--device", "cpu", *flags]
    environment = {**os.environ, **fake_engine(folder)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=30)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_write_on_a_full_disk_changes_nothing_and_works_later(folders: Folders) -> None:
    store = JobStore(folders.state / "jobs.sqlite3")
    store.add("a", {"prompt": "x"}, None, False, 10)
    store.claim("worker-1")
    with files_up_to(0), pytest.raises(StorageFailed, match="disk is full") as raised:
        store.fail("a", "some_code", "x" * 100_000, 500)
    assert (raised.value.code, raised.value.http_status) == ("storage_full", 507)
    assert [job.id for job in store.in_state("in_progress")] == ["a"]
    store.fail("a", "some_code", "words", 500)
    assert [job.error_message for job in store.in_state("failed")] == ["words"]
    store.close()


@pytest.mark.parametrize(("prompt", "end"), [("fail-at=stage_1", "failed"), ("x", "completed")])
def test_an_end_that_cannot_be_written_is_written_later(bench: MakeBench, prompt: str, end: str) -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.store.is_full = True
            job = b.add(prompt)
            await b.until(lambda: b.state(job) == "in_progress" and b.scheduler.running is not None)
            await b.until(lambda: b.scheduler.running is None)
            assert b.state(job) == "in_progress"
            with pytest.raises(Unavailable, match="record cannot be written"):
                await b.scheduler.cancel(job)
            b.store.is_full = False
            b.scheduler.wake()
            await b.until(lambda: b.state(job) == end)
            await b.run_job()

    asyncio.run(scenario())


def test_a_job_that_is_in_progress_and_runs_nowhere_is_tried_again(bench: MakeBench) -> None:
    async def scenario() -> None:
        async with bench(standby=False) as b:
            job = b.store.add("video_left", b.add().request, None, False, 10)
            await b.until(lambda: b.store.count("completed") == 2 and b.scheduler.running is None)
            again = b.store.add("video_lost", job.request, None, False, 10)
            assert b.store.claim("worker-1").id == again.id, "a claim whose consumer never heard of it"
            b.scheduler.wake()
            await b.until(lambda: b.state(again) == "completed")
            assert b.store.get(again.id).attempts == 2

    asyncio.run(scenario())


def test_a_refusing_output_folder_is_told_as_such(start: Start) -> None:
    server = start("--state-dir", "state")
    outputs = server.folder / "outputs"
    outputs.rename(server.folder / "elsewhere")
    outputs.write_text("no folder")
    job = server.make()
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_unwritable")
    assert str(server.folder) not in job["error"]["message"]
    outputs.unlink()
    (server.folder / "elsewhere").rename(outputs)
    assert server.make()["status"] == "completed"


def test_a_video_on_a_full_disk_is_not_the_clients_mistake(server: Server) -> None:
    job = server.make("disk-full")
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_full")


def test_the_probe_asks_the_disk_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    probe = StorageProbe(tmp_path, clock=lambda: now)
    assert probe.problem() is None
    with files_up_to(0):
        assert probe.problem() is None, "it was asked a moment ago"
        now += PROBE_SECONDS
        assert "disk is full" in (probe.problem() or "")
    assert list(tmp_path.iterdir()) == []
    now += PROBE_SECONDS
    assert probe.problem() is None


def test_a_second_server_on_the_same_outputs_is_refused_whatever_its_state_folder(start: Start) -> None:
    server = start()
    job = server.create("slow=0.05")
    wait_for(lambda: server.get(job["id"])["phase"] == "stage_1")
    words = refused_start(server.folder, "--output-dir", "outputs", "--state-dir", "other")
    assert "Another server works in" in words
    assert "outputs" in words
    assert server.wait(job["id"])["status"] == "completed"


def test_leftovers_of_others_stay(folders: Folders) -> None:
    for name in (".work-ours-1", ".work-theirs-1", ".work-with-dash-2"):
        (folders.outputs / name).mkdir()
    folders.remove_leftovers({"ours", "with-dash"}, set())
    assert [folder.name for folder in folders.outputs.iterdir()] == [".work-theirs-1"]


def test_files_are_for_the_user_of_the_server_only(server: Server) -> None:
    server.make()
    for path in (server.folder / "outputs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_older_state_folder_becomes_private(folders: Folders) -> None:
    folders.state.chmod(0o755)
    folders.create()
    assert stat.S_IMODE(folders.state.stat().st_mode) == 0o700


def test_every_file_of_a_result_is_on_the_disk_before_the_job_is_completed(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    work = folders.new_work("a", 1)
    for name in (VIDEO, THUMBNAIL, RESULT):
        (work / name).write_text(name)
    folders.commit("a", 1)
    assert set(synced[:3]) == {VIDEO, THUMBNAIL, RESULT}
    assert synced[3:] == [work.name, "outputs"]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_result_is_made_again(bench: MakeBench, content: str) -> None:
    async def scenario() -> None:
        b = bench()
        job = b.add()
        b.store.claim("worker-1")
        b.folders.finished(job.id).mkdir()
        (b.folders.finished(job.id) / RESULT).write_text(content)
        async with b:
            await b.until(lambda: b.state(job) == "completed")
            assert (b.folders.finished(job.id) / VIDEO).stat().st_size > 0

    asyncio.run(scenario())


def test_damaged_records_are_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "jobs.sqlite3").write_bytes(b"no database at all" * 1000)
    words = refused_start(tmp_path, "--state-dir", "state")
    assert "are damaged (file is not a database): move that file" in " ".join(words.split())


def test_a_damaged_page_is_found_at_the_start(folders: Folders) -> None:
    path = folders.state / "jobs.sqlite3"
    store = JobStore(path)
    for number in range(50):
        store.add(f"job-{number}", {"prompt": "x" * 1000}, None, False, 100)
    store.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 6 * 4096] = os.urandom(3 * 4096)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"are damaged .*: move that file"):
        JobStore(path)


def test_records_of_an_earlier_version_are_read(folders: Folders) -> None:
    path = folders.state / "jobs.sqlite3"
    store = JobStore(path)
    store.add("a", {"prompt": "x"}, None, False, 10)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX jobs_with_files")
        db.execute("DROP INDEX jobs_unmeasured")
        db.execute("ALTER TABLE jobs DROP COLUMN owner")
        db.execute("ALTER TABLE jobs DROP COLUMN bytes")
    db.close()
    store = JobStore(path)
    job = store.get("a")
    assert job is not None
    assert (job.owner, job.bytes) == (None, None)
    store.close()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    words = refused_start(tmp_path, "--output-dir", "file/outputs")
    assert "cannot be made (Not a directory)" in " ".join(words.split())
