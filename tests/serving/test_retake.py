"""Retakes over HTTP: of a job, of an uploaded file, of a path; checked before their job is accepted."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx_a2v.errors import TooLarge
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.puppet.examples import SPEECH
from ltx_a2v.serving.http.generation import check_video
from ltx_a2v.serving.http.uploads import keep_video
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import Server, data_url, png, wav

ID = f"video_{'0' * 32}"


def write_video(path: Path, width: int = 128, frames: int = 48, *, sound: bool = True) -> bytes:
    audio = load_audio(SPEECH, 0.0, frames / 24) if sound else None
    with VideoWriter(path, width=width, height=64, frame_rate=24, audio=audio) as writer:
        writer.write(torch.zeros(frames, 64, width, 3, dtype=torch.uint8))
    return path.read_bytes()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """128x64, two seconds, with sound."""
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4")


def inputs_of(server: Server, job: dict[str, Any]) -> Path:
    return server.folder / "outputs" / ".state" / "inputs" / str(job["id"])


def test_of_a_job_whose_video_may_then_be_deleted(server: Server) -> None:
    source = server.make("a woman speaks", size="512x256", seed="7", num_inference_steps="12", quality="standard")
    made = server.client.get(f"/v1/videos/{source['id']}/content").content
    part = {"video": source["id"], "start": 0.1, "end": 0.3}
    reply = server.client.post("/v1/videos", json={"retake": part, "seed": 8})
    assert reply.status_code == 200, reply.text
    job = reply.json()
    kept = inputs_of(server, job) / "video"
    assert kept.stat().st_nlink == 2
    assert server.client.delete(f"/v1/videos/{source['id']}").status_code == 200
    job = server.wait(job["id"])
    assert job["status"] == "completed"
    assert (job["prompt"], job["seed"], job["size"]) == ("a woman speaks", 8, "128x64")
    assert job["settings"]["retake"] == {"start": 0.1, "end": 0.3}
    assert job["settings"]["num_inference_steps"] == 12
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/video").content == made
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/audio").status_code == 404, "it is the video's"
    gone = server.client.post("/v1/videos", json={"retake": part})
    assert (gone.status_code, gone.json()["error"]["param"]) == (422, "retake.video")
    assert "is no job of this server" in gone.json()["error"]["message"]


def test_of_a_file_with_another_voice(server: Server, video: bytes) -> None:
    fields = {"retake[start]": "0.5", "retake[end]": "1.5", "seed": "3"}
    files = {"retake[video]": ("talk.mp4", video), "audio": wav()}
    reply = server.client.post("/v1/videos", data=fields, files=files)
    assert reply.status_code == 200, reply.text
    job = server.wait(reply.json()["id"])
    assert (job["status"], job["size"], job["prompt"]) == ("completed", "128x64", "A person speaks.")
    assert job["settings"]["frame_rate"] == 24
    assert inputs_of(server, job).joinpath("video").read_bytes() == video
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/audio").content == wav()


def test_the_same_however_it_is_encoded(server: Server, video: bytes) -> None:
    key = {"Idempotency-Key": os.urandom(8).hex()}
    fields = {"prompt": "x", "retake": '{"start": 0.5, "end": 1}'}
    split = {"prompt": "x", "retake[start]": "0.5", "retake[end]": "1"}
    body = {"prompt": "x", "retake": {"video": data_url(video, "video/mp4"), "start": 0.5, "end": 1}}
    first = server.client.post("/v1/videos", json=body, headers=key)
    second = server.client.post("/v1/videos", data=split, files={"retake[video]": video}, headers=key)
    assert first.json()["id"] == second.json()["id"], (first.text, second.text)
    twice = server.client.post("/v1/videos", data=fields, files={"retake[video]": video})
    assert (twice.status_code, twice.json()["error"]["param"]) == (422, "retake")


def test_of_a_path_and_while_the_caller_waits(server: Server, video: bytes) -> None:
    (server.folder / "inputs" / "talk.mp4").write_bytes(video)
    body = {"prompt": "x", "retake": {"video": "talk.mp4", "start": 0, "end": 2}}
    reply = server.client.post("/v1/videos/sync", json=body)
    assert reply.status_code == 200, reply.text
    body["retake"]["video"] = "../talk.mp4"  # type: ignore[index]
    assert server.client.post("/v1/videos", json=body).status_code == 403


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"start": 2.5, "end": 3}, "retake.start", "retake.start 2.5 is after the end of the video, 2.00 s."),
        ({"end": 3}, "retake.end", "retake.end 3.0 is after the end of the video, 2.00 s."),
        ({"start": 1, "end": 1}, "retake.end", "retake.end 1.0 must be after the start, 1.0."),
        ({"start": -1}, "retake.start", "retake.start -1 is too small: it must be at least 0."),
        ({"start": None}, "retake.start", "retake.start"),
        ({"video": None}, "retake.video", "has no video: send a file, the id of a finished job"),
        ({"video": ID}, "retake.video", f"{ID!r} is no job of this server"),
        ({"size": "128x64"}, "size", "cannot be chosen in a retake, which has the video's: leave it out"),
        ({"input_reference": data_url(png(), "image/png")}, "input_reference", "is not used in a retake"),
    ],
)
def test_mistakes(server: Server, video: bytes, changes: dict[str, Any], param: str, message: str) -> None:
    part = {"video": data_url(video, "video/mp4"), "start": 0.5, "end": 1}
    part |= {name: value for name, value in changes.items() if name in part}
    body = {"prompt": "x", "retake": {name: value for name, value in part.items() if value is not None}}
    body |= {name: value for name, value in changes.items() if name not in part}
    reply = server.client.post("/v1/videos", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, param), reply.text
    assert message in reply.json()["error"]["message"]


def test_videos_that_cannot_be_used(server: Server, tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", sound=False)
    cases = [
        (silent, 1.0, "invalid_video", "The file has no sound; give the speech with audio."),
        (write_video(tmp_path / "odd.mp4", width=96), 1.0, "invalid_request", "has a side of 96 pixels; scale it to"),
        (write_video(tmp_path / "long.mp4", frames=300), 12.0, "invalid_request", "at most 8.0 s are made at once"),
        (b"no video", 1.0, "invalid_video", "The file cannot be read as a video; give an mp4."),
        (wav(), 1.0, "invalid_video", "The file holds no pictures, only sound; give a video."),
        (png(), 1.0, "invalid_video", "The file holds no moving pictures; give a video."),
    ]
    before = server.client.get("/v1/videos?limit=1").json()["first_id"]
    for content, end, code, message in cases:
        fields = {"prompt": "x", "retake[start]": "0.5", "retake[end]": str(end)}
        reply = server.client.post("/v1/videos", data=fields, files={"retake[video]": content})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, code), reply.text
        assert message in reply.json()["error"]["message"]
        assert "/" not in reply.json()["error"]["message"], "a path of the server"
        assert reply.json()["error"]["param"].startswith("retake.")
    assert server.client.get("/v1/videos?limit=1").json()["first_id"] == before
    fields = {"prompt": "x", "retake[start]": "0.5", "retake[end]": "1"}
    spoken = server.client.post("/v1/videos", data=fields, files={"retake[video]": silent, "audio": wav()})
    assert spoken.status_code == 200, spoken.text


def test_a_prompt_is_still_needed_without_a_retake(server: Server) -> None:
    reply = server.client.post("/v1/videos", json={"audio": data_url(wav())})
    assert reply.json()["error"]["message"] == "prompt is missing."
    reply = server.client.post("/generate", json={"prompt": "x", "retake": {"video": ID, "start": 0, "end": 1}})
    assert reply.status_code == 422


def test_the_server_s_limits_hold_for_its_video(tmp_path: Path) -> None:
    settings = ServerSettings(output_dir=tmp_path, max_seconds=10, max_pixels=8192)
    check_video(128, 64, 10.0, settings)
    with pytest.raises(TooLarge, match="128x128 has 16384 pixels; this server allows 8192"):
        check_video(128, 128, 10.0, settings)
    with pytest.raises(TooLarge, match=r"10\.1 s are longer than the longest video of this server, 10 s"):
        check_video(128, 64, 10.1, settings)


def test_a_video_on_another_file_system_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", refuse)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"a video")
    kept = Path(keep_video(video, tmp_path / "inputs" / "job", "video"))
    video.unlink()
    assert kept.read_bytes() == b"a video"
