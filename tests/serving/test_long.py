"""Long videos on the server: finished windows are kept, and can be watched before the video is complete."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable

import av

from tests.serving.conftest import Server, wait_for

LONG = 120
"""Seconds: the first joining imports torch."""


def frames(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_what_is_finished_can_be_watched_and_outlives_the_worker(start: Callable[..., Server]) -> None:
    server = start()
    job = server.create("windows=3 last-hangs-once", num_frames=25, size="256x128")
    content = f"/v1/videos/{job['id']}/content?partial=1"
    assert server.client.get(content).status_code == 409
    now = wait_for(lambda: (now := server.get(job["id"]))["window"] == 3 and now, LONG)
    assert (now["status"], now["windows"]) == ("in_progress", 3)
    wait_for(lambda: frames(server.client.get(content).content) == 18)
    assert 50 < now["progress"] < 100

    pid = server.worker_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert server.wait(job["id"], seconds=LONG)["attempts"] == 2
    windows = [line for line in server.lines if "window" in line and "/3" in line]
    assert len(windows) == 6
    assert server.client.get(content).content == server.client.get(content.partition("?")[0]).content
    assert not (server.folder / "outputs" / ".state" / "inputs" / job["id"] / "windows").exists()


def test_a_cancelled_video_keeps_what_is_finished(start: Callable[..., Server]) -> None:
    server = start()
    job = server.create("windows=3 last-hangs-once", num_frames=25, size="256x128")
    wait_for(lambda: server.get(job["id"])["window"] == 3, LONG)
    content = f"/v1/videos/{job['id']}/content?partial=1"
    wait_for(lambda: frames(server.client.get(content).content) == 18)
    os.kill(server.worker_pid() or 0, signal.SIGSTOP)
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    os.kill(server.worker_pid() or 0, signal.SIGKILL)
    assert server.wait(job["id"])["status"] == "cancelled"
    assert frames(server.client.get(content).content) == 18
    kept = server.folder / "outputs" / ".state" / "inputs" / job["id"] / "windows"
    assert [file.name for file in kept.iterdir()] == ["partial.mp4"]
    assert server.client.delete(f"/v1/videos/{job['id']}").status_code == 200
    assert not kept.exists()
