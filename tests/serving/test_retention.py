"""Outputs go after their time or when they take too much room; records stay."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ltx_a2v.serving.jobs.folders import VIDEO, Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.jobs.retention import sweep
from ltx_a2v.settings.server import KeepOutputs
from tests.serving.conftest import wait_for


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
    store.claim()
    work = folders.new_work(name, 1)
    (work / VIDEO).write_bytes(b"x" * size)
    folders.commit(name, 1)
    folders.inputs(name).mkdir()
    store.complete(name, {})


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
