"""The API of jobs over real HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import httpx
import pytest
from PIL import Image

from tests.serving.conftest import Server, data_url, png, wait_for, wav
from tests.serving.fakes import PREVIEW

SMALL = {"size": "256x128", "num_frames": 9, "num_inference_steps": 3}


def test_a_job_from_upload_to_download(server: Server) -> None:
    job = server.create("hello", seed=7, **SMALL)
    assert job["object"] == "video"
    assert job["status"] in ("queued", "in_progress")
    done = server.wait(job["id"])
    assert done["status"] == "completed"
    assert (done["progress"], done["seconds"], done["size"], done["seed"]) == (100, "0.38", "256x128", 7)
    assert {"encode_prompt", "stage_1", "decode"} <= set(done["result"]["phases"])
    content = server.client.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(content.content)) as container:
        assert container.streams.video[0].width == 64
    assert list((server.folder / "outputs").glob(f".work-{job['id']}*")) == []


def test_seconds_are_auto_until_the_audio_is_known(server: Server) -> None:
    job = server.create("slow=0.02")
    assert job["seconds"] == "auto"
    assert server.wait(job["id"])["seconds"] == "2.04"  # 49 frames for 2 s at 24/s


def test_content_understands_ranges(server: Server) -> None:
    url = f"/v1/videos/{server.make(**SMALL)['id']}/content"
    whole = server.client.get(url).content
    part = server.client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert server.client.get(url, headers={"Range": f"bytes={len(whole) + 1}-"}).status_code == 416


def test_thumbnail_is_the_first_frame(server: Server) -> None:
    job = server.make(seed=200, **SMALL)
    reply = server.client.get(f"/v1/videos/{job['id']}/content?variant=thumbnail")
    assert reply.headers["content-type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(reply.content))
    assert picture.size == (64, 32)
    assert picture.getpixel((5, 5))[0] == pytest.approx(200, abs=8)


@pytest.mark.parametrize(
    "audio",
    [
        {"audio": data_url(wav())},
        {"audio_reference": data_url(wav())},
        {"audio_reference": {"audio_url": data_url(wav())}},
    ],
)
def test_json_with_data_urls(server: Server, audio: dict[str, Any]) -> None:
    body = {"prompt": "hello", "num_frames": 9, "input_reference": data_url(png(), "image/png"), **audio}
    reply = server.client.post("/v1/videos", json=body)
    assert reply.status_code == 200, reply.text
    job = server.wait(reply.json()["id"])
    assert (job["status"], job["has_image"]) == ("completed", True)
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/audio").content == wav()
    assert server.client.get(f"/v1/videos/{job['id']}/inputs/image").content == png()


@pytest.mark.parametrize(
    "fields",
    [
        {"audio_reference[audio_url]": data_url(wav())},
        {"audio_reference": json.dumps({"audio_url": data_url(wav())})},
        {"audio_reference": data_url(wav()), "guidance[cfg]": "2", "guidance[rescale]": "0.5"},
        {"audio_reference": data_url(wav()), "guidance": json.dumps({"cfg": 2, "rescale": 0.5})},
    ],
)
def test_forms_with_nested_values(server: Server, fields: dict[str, str]) -> None:
    form = {name: (None, value) for name, value in {"prompt": "hello", "num_frames": "9", **fields}.items()}
    reply = server.client.post("/v1/videos", files=form)
    assert reply.status_code == 200, reply.text
    asked = reply.json()["settings"]["guidance"]
    assert (asked["cfg"], asked["rescale"]) == ((2, 0.5) if len(fields) > 1 or "guidance" in fields else (3, 0.7))


def test_seconds_take_the_nearest_length(server: Server) -> None:
    assert server.create(seconds="4")["settings"]["num_frames"] == 97
    assert server.create(seconds="0.5", fps="30")["settings"]["num_frames"] == 17


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"colour": "red"}, 422, "invalid_request", "Unknown field 'colour'"),
        ({"size": "1280x720"}, 422, "invalid_request", "use 704 or 768"),
        ({"size": "big"}, 422, "invalid_request", "size 'big'"),
        ({"num_frames": "10"}, 422, "invalid_request", "use 9 or 17"),
        ({"num_frames": "9", "seconds": "4"}, 422, "invalid_request", "give one of them"),
        ({"seconds": "-1"}, 422, "invalid_request", "above 0"),
        ({"seconds": "nan"}, 422, "invalid_request", "above 0"),
        ({"fps": "500"}, 422, "invalid_request", "fps 500 is too large"),
        ({"seed": "-1"}, 422, "invalid_request", "seed -1 is too small"),
        ({"keep_alive": "soon"}, 422, "invalid_request", "'soon' is not a duration"),
        ({"model": "sora-2"}, 422, "invalid_request", "'sora-2' is not served here"),
        ({"size": "4096x4096"}, 413, "size_too_large", "16777216 pixels"),
        ({"num_frames": "20001"}, 413, "video_too_long", "600 s"),
        ({"input_reference": "http://127.0.0.1/x.png"}, 422, "invalid_request", "is a link, which is not followed"),
        ({"input_reference": "data:image/png;base64,???"}, 422, "invalid_request", "cannot be decoded"),
        ({"input_reference": "data:image/png,abc"}, 422, "invalid_request", "base64"),
        ({"guidance[cfg]": "1000"}, 422, "invalid_request", "guidance.cfg"),
        ({"audio": data_url(wav())}, 422, "invalid_request", "more than once"),
        ({"audio_reference": data_url(wav())}, 422, "invalid_request", "audio_reference gives the audio a second time"),
    ],
)
def test_refused_with_a_reason(server: Server, fields: dict[str, str], status: int, code: str, words: str) -> None:
    reply = server.client.post("/v1/videos", data={"prompt": "hello", **fields}, files={"audio": wav()})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
    assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"prompt": "x"}', "application/json", 422),
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b'{"prompt": "x", "audio": "a", "seed": "5"}', "application/json", 422),
        (b"x", "text/plain", 422),
        (b"no boundary", "multipart/form-data", 422),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b", 422),
        (b"prompt=x", "application/x-www-form-urlencoded", 422),
    ],
)
def test_malformed_bodies(server: Server, content: bytes, kind: str, status: int) -> None:
    reply = server.client.post("/v1/videos", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]


def test_uploads_beyond_their_limits(start: Any) -> None:
    server = start("--max-image-mb", "1", "--max-audio-mb", "2", "--max-json-mb", "1")
    many = b"x" * (1 << 20) + b"x"
    cases = [
        ({"audio": wav(), "input_reference": many}, "image_too_large"),
        ({"audio": many * 2}, "audio_too_large"),
        ({"audio": many * 8}, "body_too_large"),
        ({"audio": b""}, "invalid_request"),
    ]
    for files, code in cases:
        reply = server.client.post("/v1/videos", data={"prompt": "hello"}, files=files)
        assert reply.json()["error"]["code"] == code, reply.text
    half = "a" * 600_000  # text fields stay in memory, so what counts is their sum
    reply = server.client.post("/v1/videos", files={"audio": (None, half), "input_reference": (None, half)})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    reply = server.client.post("/v1/videos", json={"prompt": "x", "audio": data_url(many)})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert list((server.folder / "outputs/.state/inputs").iterdir()) == []


def test_what_fails_in_the_worker_is_told(server: Server) -> None:
    job = server.make("fail-at=load_audio")
    assert job["status"] == "failed"
    message = "The audio cannot be decoded: it holds no sound."
    assert job["error"] == {"code": "invalid_audio", "message": message, "param": "audio"}
    assert server.client.get(f"/v1/videos/{job['id']}/content").status_code == 409


def test_unknown_videos(server: Server) -> None:
    for method, path in [("GET", ""), ("GET", "/content"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")]:
        reply = server.client.request(method, f"/v1/videos/video_0{path}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_list_pages_through_everything(start: Any) -> None:
    server = start()
    made = [server.create(num_frames=9)["id"] for _ in range(5)]

    def pages(order: str) -> list[str]:
        found: list[str] = []
        query: dict[str, Any] = {"limit": 2, "order": order}
        while True:
            page = server.client.get("/v1/videos", params=query).json()
            found += [video["id"] for video in page["data"]]
            if not page["has_more"]:
                return found
            query["after"] = page["last_id"]

    assert pages("asc") == made
    assert pages("desc") == made[::-1]
    assert server.client.get("/v1/videos?limit=0").status_code == 422


def test_delete_removes_everything(server: Server) -> None:
    job = server.make(**SMALL)
    folder = server.folder / "outputs" / job["id"]
    assert folder.is_dir()
    reply = server.client.delete(f"/v1/videos/{job['id']}").json()
    assert reply == {"id": job["id"], "object": "video.deleted", "deleted": True}
    assert server.client.get(f"/v1/videos/{job['id']}").status_code == 404
    assert not folder.exists()
    assert not (server.folder / "outputs/.state/inputs" / job["id"]).exists()


def test_a_running_job_cannot_be_deleted(server: Server) -> None:
    job = server.create("slow=0.05")
    server.wait(job["id"], "in_progress")
    assert server.client.delete(f"/v1/videos/{job['id']}").status_code == 409
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    assert server.wait(job["id"])["status"] == "cancelled"


def test_events_show_real_and_monotonic_progress(server: Server) -> None:
    job = server.create("slow=0.01", num_inference_steps=10)
    seen: list[dict[str, Any]] = []
    with server.client.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        seen += [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    percents = [video["progress"] for video in seen]
    assert percents == sorted(percents)
    assert len(set(percents)) > 5
    assert [video["progress"] for video in seen if video["status"] == "in_progress"][-1] <= 99
    assert (seen[-1]["status"], seen[-1]["progress"]) == ("completed", 100)
    steps = [(video["step"], video["steps"]) for video in seen if video["phase"] == "stage_1"]
    assert len(set(steps)) > 3
    assert {total for _, total in steps} <= {0, 10}
    assert any(video["eta_seconds"] is not None for video in seen)


@pytest.mark.parametrize(("flags", "shown"), [((), True), (("--no-previews",), False)])
def test_rough_pictures_come_between_the_events(start: Any, flags: tuple[str, ...], shown: bool) -> None:
    server = start(*flags)
    job = server.create("slow=0.05", num_inference_steps=4)
    with server.client.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        lines = list(stream.iter_lines())
    previews = [lines[i + 1] for i, line in enumerate(lines) if line == "event: preview"]
    assert (len(previews) > 0) == shown
    assert {base64.b64decode(line.removeprefix("data: ")) for line in previews} <= {PREVIEW}


def test_queue_positions(server: Server) -> None:
    first = server.create("slow=0.1")
    server.wait(first["id"], "in_progress")
    second, third = server.create(), server.create()
    assert [server.get(job["id"])["queue_position"] for job in (first, second, third)] == [None, 1, 2]
    server.client.post(f"/v1/videos/{second['id']}/cancel")
    assert server.get(second["id"])["status"] == "cancelled"
    assert server.get(third["id"])["queue_position"] == 1
    server.client.post(f"/v1/videos/{first['id']}/cancel")
    assert server.wait(third["id"])["status"] == "completed"


def test_full_queue_says_when_to_come_back(start: Any) -> None:
    server = start("--max-queue", "1")
    running = server.create("slow=0.1")
    server.wait(running["id"], "in_progress")
    server.create()
    reply = server.client.post("/v1/videos", data={"prompt": "x"}, files={"audio": wav()})
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) > 0
    assert server.client.get("/ready").status_code == 503


def test_sync_replies_with_the_video(server: Server) -> None:
    reply = server.client.post("/v1/videos/sync", data={"prompt": "x", **SMALL}, files={"audio": wav()})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "video/mp4")
    assert float(reply.headers["x-inference-time-s"]) > 0
    assert "stage_1" in json.loads(reply.headers["x-stage-durations"])
    assert reply.headers["x-peak-memory-mb"] == "2048"
    assert reply.content == server.client.get(f"/v1/videos/{reply.headers['x-video-id']}/content").content


def test_sync_has_the_status_of_the_failure(server: Server) -> None:
    reply = server.client.post("/v1/videos/sync", data={"prompt": "fail-at=decode"}, files={"audio": wav()})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_audio")


def test_generate_replies_like_the_script_it_replaces(server: Server) -> None:
    (server.folder / "inputs" / "speech.wav").write_bytes(wav())
    body = {"prompt": "x", "audio": "speech.wav", "width": 256, "height": 128, "num_frames": 9, "seed": 3}
    reply = server.client.post("/generate", json=body).json()
    assert (reply["width"], reply["height"], reply["num_frames"], reply["seed"]) == (256, 128, 9, 3)
    assert reply["peak_vram_gib"] == 2
    assert reply["elapsed_seconds"] > 0
    assert reply["notices"] == []
    assert server.client.get(reply["video_url"]).content == Path(reply["output_path"]).read_bytes()


def test_generate_has_plain_errors(server: Server) -> None:
    reply = server.client.post("/generate", json={"prompt": "x", "audio": data_url(wav()), "width": 100})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("width 100 must be a multiple of 64")
    failed = server.client.post("/generate", json={"prompt": "no-room", "audio": "nowhere.wav"})
    assert (failed.status_code, failed.json()["code"]) == (403, "forbidden")


def test_a_client_that_leaves_cancels_its_job(server: Server) -> None:
    body = json.dumps({"prompt": "slow=0.2", "audio": data_url(wav())})
    connection = http.client.HTTPConnection(urlsplit(server.base).netloc)
    connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
    (job,) = wait_for(lambda: [job for job in server.jobs() if job["prompt"] == "slow=0.2"])
    connection.close()
    assert server.wait(job["id"])["status"] == "cancelled"


def test_a_client_that_leaves_its_events_leaves_the_job(server: Server) -> None:
    job = server.create("slow=0.02")
    with server.client.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        next(stream.iter_lines())
    assert server.wait(job["id"])["status"] == "completed"


def test_a_slow_client_is_given_up_and_harms_no_one(start: Any) -> None:
    server = start("--body-timeout", "500ms")
    goes_on = threading.Event()

    def slow() -> Any:
        yield b'{"prompt": "x",'
        goes_on.wait(10)
        yield b"}"

    replies: list[httpx.Response] = []
    headers = {"Content-Type": "application/json"}
    thread = threading.Thread(
        target=lambda: replies.append(httpx.post(f"{server.base}/v1/videos", content=slow(), headers=headers))
    )
    thread.start()
    assert server.make()["status"] == "completed"
    wait_for(lambda: any("POST /v1/videos 408" in line for line in server.lines), 5)
    goes_on.set()
    thread.join(10)
    assert replies[0].status_code == 408


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_a_client_that_leaves_while_it_sends(start: Any, kind: str) -> None:
    server = start("--no-standby")
    host, port = server.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/videos HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        connection.sendall((head + part + "x" * 5000).encode())
    wait_for(lambda: any("POST /v1/videos 400" in line for line in server.lines), 5)
    assert server.client.get("/v1/videos").json()["data"] == []
    assert list((server.folder / "outputs/.state/inputs").iterdir()) == []
    assert not any("unexpected" in line for line in server.lines)


def test_models_and_options(server: Server) -> None:
    assert server.client.get("/v1/models").json()["data"][0]["id"] == "ltx-2.3-fake"
    options = server.client.get("/api/options").json()
    assert options["presets"]["standard"] == {"long_side": 768, "short_side": 512, "num_inference_steps": 30}
    fitted = server.client.get("/api/fit?width=1280&height=720&seconds=4").json()
    assert fitted == {"width": 1280, "height": 768, "size": "1280x768", "num_frames": 97, "seconds": 4.042}
