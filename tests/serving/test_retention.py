"""Outputs go after their time or when they take too much room; records stay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ltx_a2v.serving.jobs.folders import VIDEO, Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.jobs.retention import Sweeper
from ltx_a2v.settings.server import KeepOutputs
from tests.serving.conftest import wait_for
from tests.serving.records import fill


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "outputs", tmp_path / "state")
    folders.create()
    return folders


@pytest.fixture
def store(folders: Folders):
    store = JobStore(folders.state / "jobs.sqlite3")
    yield store
    store.close()


def finish(store: JobStore, folders: Folders, name: str, size: int) -> None:
    store.add(name, {"prompt": name}, None, False, 100)
    store.claim("worker-1")
    work = folders.new_work(name, 1)
    (work / VIDEO).write_bytes(b"x" * size)
    folders.commit(name, 1)
    folders.inputs(name).mkdir()
    store.complete(name, {})


def sweep(store: JobStore, folders: Folders, keep: KeepOutputs, now: float) -> list[str]:
    return Sweeper(store, folders, keep, wall=lambda: now).sweep()


def test_old_ones_go_with_their_uploads(store: JobStore, folders: Folders) -> None:
    finish(store, folders, "old", 10)
    keep = KeepOutputs(seconds=60)
    assert sweep(store, folders, keep, time.time() + 59) == []
    assert sweep(store, folders, keep, time.time() + 61) == ["old"]
    assert not folders.finished("old").exists()
    assert not folders.inputs("old").exists()
    job = store.get("old")
    assert job is not None
    assert (job.state, job.expired) == ("completed", True)
    assert sweep(store, folders, keep, time.time() + 61) == []


def test_the_oldest_go_until_the_rest_fits(store: JobStore, folders: Folders) -> None:
    for name in ("a", "b", "c"):
        finish(store, folders, name, 100)
    assert sweep(store, folders, KeepOutputs(total_bytes=250), time.time()) == ["a"]
    assert sweep(store, folders, KeepOutputs(total_bytes=100), time.time()) == ["b"]
    assert sweep(store, folders, KeepOutputs(total_bytes=1), time.time()) == [], "the newest is kept"


@pytest.mark.slow
def test_expired_content_is_gone_for_good(start) -> None:
    server = start("--keep-outputs", "1s")
    video = server.make(num_frames=9)
    assert video["expires_at"] == video["completed_at"] + 1
    time.sleep(1)
    server.stop()
    server = start("--keep-outputs", "1s")
    expired = wait_for(lambda: (v := server.get(video["id"]))["expired"] and v)
    assert expired["status"] == "completed"
    reply = server.client.get(f"/v1/videos/{video['id']}/content")
    assert (reply.status_code, reply.json()["error"]["code"]) == (410, "expired")


def test_uploads_count(store: JobStore, folders: Folders) -> None:
    for name in ("a", "b"):
        finish(store, folders, name, 100)
        (folders.inputs(name) / "audio").write_bytes(b"x" * 200)
    assert sweep(store, folders, KeepOutputs(total_bytes=600), time.time()) == []
    assert sweep(store, folders, KeepOutputs(total_bytes=599), time.time()) == ["a"]


@pytest.mark.parametrize("jump", [8 * 86400, -8 * 86400])
def test_nothing_is_removed_right_after_the_clock_was_set(store: JobStore, folders: Folders, jump: float) -> None:
    finish(store, folders, "fresh", 100)
    wall, monotonic = time.time(), 0.0
    sweeper = Sweeper(store, folders, KeepOutputs(seconds=7 * 86400), wall=lambda: wall, monotonic=lambda: monotonic)
    assert sweeper.sweep() == []
    wall, monotonic = wall + jump + 60, monotonic + 60
    assert sweeper.sweep() == [], "the clock has just been set"
    wall, monotonic = wall - jump + 1800, monotonic + 1800
    assert sweeper.sweep() == [], "and set right again"
    wall, monotonic = wall + 7 * 86400, monotonic + 7 * 86400
    assert sweeper.sweep() == ["fresh"]


def test_a_sweep_stops_between_two_jobs(store: JobStore, folders: Folders) -> None:
    for number in range(5):
        finish(store, folders, f"job-{number}", 10)
    sweeper = Sweeper(store, folders, KeepOutputs(seconds=60), wall=lambda: time.time() + 3600)
    sweeper.stop()
    assert sweeper.sweep() == []
    assert len(list(folders.outputs.iterdir())) == 5


def test_files_that_outlived_their_record_go_at_the_next_start(store: JobStore, folders: Folders) -> None:
    finish(store, folders, "old", 10)
    store.expire(["old"])
    folders.remove_leftovers(store.ids(), store.expired_ids())
    assert not folders.finished("old").exists()
    assert not folders.inputs("old").exists()


def test_fifty_thousand_records_are_swept_in_a_moment(store: JobStore, folders: Folders) -> None:
    fill(folders.state / "jobs.sqlite3", 50_000, time.time())
    sweeper = Sweeper(store, folders, KeepOutputs(seconds=7 * 86400, total_bytes=50 * 10**9))
    began = time.monotonic()
    assert sweeper.sweep() == []
    assert time.monotonic() - began < 0.5
