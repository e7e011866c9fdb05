"""Bodies that are odd, large, slow or sent twice, and a disk that takes none."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ltx_a2v.errors import Unavailable
from ltx_a2v.serving.http.receiving import FREE_BYTES, Room
from ltx_a2v.serving.http.replies import without_folders
from tests.serving import faults_http
from tests.serving.conftest import Server, data_url, png, wait_for, wav

SMALL = {"prompt": "x", "num_frames": "9", "num_inference_steps": "2"}


def form(server: Server, parts: dict[str, Any], **options: Any) -> httpx.Response:
    return server.client.post("/v1/videos", files={name: (None, text) for name, text in parts.items()}, **options)


# -- what errors say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_told_in_words(server: Server, prompt: str) -> None:
    reply = form(server, {"prompt": prompt, "audio_reference": data_url(wav())})
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == f"prompt {prompt!r} is empty: say who speaks, where, and how."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "1280x720"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"size": "big"}, "size"),
        ({"fps": "500"}, "fps"),
        ({"seconds": "-1"}, "seconds"),
        ({"num_frames": "10"}, "num_frames"),
        ({"num_frames": "20001"}, "num_frames"),
        ({"guidance[cfg]": "1000"}, "guidance.cfg"),
        ({"quality": "best"}, "quality"),
        ({"guidance[skip_step]": "-1"}, "guidance.skip_step"),
        ({"guidance[skip_step]": "30"}, "guidance.skip_step"),
        ({"guidance[skip_step]": "1", "quality": "fast"}, "guidance.skip_step"),
        ({"colour": "red"}, "colour"),
        ({"model": "sora-2"}, "model"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"audio_reference": "data:audio/wav;base64,???"}, "audio_reference"),
        ({"input_reference": "http://127.0.0.1/x.png"}, "input_reference"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"negative_prompt": "x" * 10_001}, "negative_prompt"),
    ],
)
def test_errors_name_the_field(server: Server, fields: dict[str, str], param: str) -> None:
    given = {"prompt": "x", "audio_reference": data_url(wav()), **fields}
    reply = form(server, given)
    assert reply.status_code in (413, 422), reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert "--" not in error["message"]
    assert "⟨" not in error["message"]


def test_a_missing_field_is_named(server: Server) -> None:
    assert form(server, {"prompt": "x"}).json()["error"]["param"] == "audio"
    assert form(server, {"audio": data_url(wav())}).json()["error"]["param"] == "prompt"
    reply = server.client.post("/generate", json={"prompt": "x", "audio": data_url(wav()), "width": 100}).json()
    assert reply["param"] == "width"
    assert server.client.get("/v1/videos?limit=0").json()["error"]["param"] == "limit"


REFUSED: list[tuple[str, dict[str, str], int, str]] = [
    ("an empty prompt", {"prompt": "", "audio": data_url(wav())}, 422, "prompt"),
    ("a blank prompt", {"prompt": " \n", "audio": data_url(wav())}, 422, "prompt"),
    ("a path without an input folder", {"prompt": "x", "audio": "/etc/passwd"}, 403, "audio"),
    ("a picture too large", {"prompt": "x", "audio": data_url(wav()), "input_reference": "L"}, 413, "input_reference"),
    ("base64 that is none", {"prompt": "x", "audio_reference": "data:audio/wav;base64,%"}, 422, "audio_reference"),
    ("too many frames", {"prompt": "x", "audio": data_url(wav()), "num_frames": "33"}, 413, "num_frames"),
    ("too many seconds", {"prompt": "x", "audio": data_url(wav()), "seconds": "2"}, 413, "seconds"),
    ("too many pixels", {"prompt": "x", "audio": data_url(wav()), "size": "1024x1024"}, 413, "size"),
]


def test_every_refusal_names_its_field(start: Callable[..., Server]) -> None:
    server = start("--no-standby", "--max-image-mb", "1", "--max-seconds", "1", "--max-pixels", "500000")
    large = data_url(b"x" * (2**20 + 1))
    for what, fields, status, param in REFUSED:
        reply = form(server, {name: large if value == "L" else value for name, value in fields.items()})
        assert (what, reply.status_code, reply.json()["error"]["param"]) == (what, status, param)
    reply = server.client.post("/v1/videos", files=[("prompt", (None, "a")), ("prompt", (None, "b"))])
    assert reply.json()["error"]["param"] == "prompt"
    for path in ("", "/content", "/events"):
        assert server.client.get(f"/v1/videos/video_0{path}").json()["error"]["param"] == "video_id"
    reply = form(server, {"prompt": "x", "audio": data_url(wav())}, headers={"Idempotency-Key": "a b"})
    assert reply.json()["error"]["param"] == "Idempotency-Key"


def test_parameters_are_refused_in_plain_words(server: Server) -> None:
    error = server.client.get("/v1/videos?limit=0").json()["error"]
    assert error["message"] == "limit 0 is too small: it must be at least 1."
    error = server.client.get("/api/fit?width=wide&height=64&seconds=1").json()["error"]
    assert error["message"] == "width 'wide' is not a whole number."
    assert server.client.get("/api/fit?width=64&height=64").json()["error"]["message"] == "seconds is missing."


def test_errors_keep_the_server_s_folders_to_themselves(server: Server) -> None:
    """Where files lie is told by the log."""
    job = server.make("tell-a-path")
    assert job["error"]["message"] == "OSError: [Errno 5] Input/output error: 'audio'"
    assert any(str(server.folder) in line for line in server.lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The model file /srv/models/ltx.safetensors is damaged.", "The model file ltx.safetensors is damaged."),
        ("[Errno 2] No such file: '/a/b/c d'", "[Errno 2] No such file: 'c d'"),
        ("Use 24/25 or 30/1 frames and/or less.", "Use 24/25 or 30/1 frames and/or less."),
    ],
)
def test_folders_are_cut_from_messages(text: str, shown: str) -> None:
    assert without_folders(text) == shown


# -- odd bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"prompt": "x", "prompt[x]": "y"},
        {"prompt[x]": "y", "prompt": "x"},
        {"prompt": "x", "guidance": '{"a":' * 50_000},
        {"prompt": "x", "guidance": "{" + ",".join(f'"a{n}":1' for n in range(100_000)) + "}"},
        {"prompt": "x", "guidance[cfg][x]": "1"},
        {"prompt": "x", "[": "1", "]": "2", "": "3"},
        {f"a{n}": "x" for n in range(200)},
    ],
    ids=range(7),
)
def test_odd_forms_are_refused(server: Server, parts: dict[str, str]) -> None:
    reply = form(server, parts)
    assert reply.status_code == 422, reply.text
    assert len(reply.text) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"prompt": "x", "audio": "a", ' + b",".join(b'"f%d":1' % n for n in range(200_000)) + b"}",
        b'{"prompt": "x", "audio_reference": {' + b",".join(b'"f%d":"1"' % n for n in range(200_000)) + b"}}",
        b'{"prompt": "x", "guidance": {"stg_blocks": [' + b",".join([b"1"] * 200_000) + b"]}}",
    ],
    ids=range(5),
)
def test_odd_json_is_refused(server: Server, body: bytes) -> None:
    began = time.monotonic()
    reply = server.client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422, reply.text
    assert len(reply.text) < 1000
    assert time.monotonic() - began < 2


def test_urlencoded_bodies_are_not_read(server: Server) -> None:
    """A million fields of a few bytes took seconds of the whole server."""
    began = time.monotonic()
    reply = server.client.post("/v1/videos", data={f"a{n}": "" for n in range(300_000)})
    assert reply.status_code == 422
    assert "multipart/form-data" in reply.json()["error"]["message"]
    assert time.monotonic() - began < 3


def test_the_body_of_a_load_is_bounded(server: Server) -> None:
    reply = server.client.post("/api/load", content=b" " * 100_000)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert server.client.post("/api/load", json={"keep_alive": "soon"}).json()["error"]["param"] == "keep_alive"
    assert server.client.post("/api/load", json={"keep_alive": -1}).json() == {"status": "loaded"}


# -- many and large bodies ---------------------------------------------------------------------------------------------


def test_large_bodies_at_once_take_bounded_memory(start: Callable[..., Server]) -> None:
    _, figures = faults_http.large_json(start("--no-standby"), count=6)
    assert (figures["accepted"], figures["other"]) == (6, 0)
    assert figures["peak_mib"] < 320


def test_room_for_bodies_is_bounded_and_given_back() -> None:
    room = Room(10 * FREE_BYTES)
    with room.share() as first, room.share() as second, room.share() as third:
        room.take(first, 6 * FREE_BYTES)
        room.take(second, 6 * FREE_BYTES)
        with pytest.raises(Unavailable):
            room.take(third, 2 * FREE_BYTES)
        room.take(third, FREE_BYTES)
    with room.share() as fourth:
        room.take(fourth, 11 * FREE_BYTES)


# -- the same request twice --------------------------------------------------------------------------------------------


def test_the_same_key_makes_one_job(server: Server) -> None:
    headers = {"Idempotency-Key": "one"}
    first = server.client.post("/v1/videos", data=SMALL, files={"audio": wav()}, headers=headers).json()
    again = server.client.post("/v1/videos", data=SMALL, files={"audio": wav()}, headers=headers).json()
    as_text = form(server, {**SMALL, "audio": data_url(wav())}, headers=headers).json()
    assert [again["id"], as_text["id"]] == [first["id"]] * 2
    assert server.wait(first["id"])["status"] == "completed"
    uploads = list((server.folder / "outputs/.state/inputs" / first["id"]).iterdir())
    assert [file.name for file in uploads] == ["audio"]


def test_the_same_key_with_another_body_is_refused(server: Server) -> None:
    headers = {"Idempotency-Key": "two"}
    assert form(server, {**SMALL, "audio": data_url(wav())}, headers=headers).status_code == 200
    folders = set((server.folder / "outputs/.state/inputs").iterdir())
    for other in ({**SMALL, "seed": "5", "audio": data_url(wav())}, {**SMALL, "audio": data_url(wav(0.6))}):
        reply = form(server, other, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")
    assert set((server.folder / "outputs/.state/inputs").iterdir()) == folders


def test_one_key_sent_at_once_makes_one_job(server: Server) -> None:
    def post(_: int) -> str:
        parts = {name: (None, text) for name, text in {**SMALL, "audio": data_url(wav())}.items()}
        reply = httpx.post(f"{server.base}/v1/videos", files=parts, headers={"Idempotency-Key": "three"})
        return str(reply.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(post, range(8)))) == 1


def test_a_key_survives_a_restart_and_a_full_queue(start: Callable[..., Server]) -> None:
    headers = {"Idempotency-Key": "four"}
    first = start("--max-queue", "1")
    running = first.create("slow=0.2")
    first.wait(running["id"], "in_progress")
    job = form(first, {**SMALL, "audio": data_url(wav())}, headers=headers).json()
    assert form(first, {**SMALL, "audio": data_url(wav())}, headers=headers).json()["id"] == job["id"]
    first.stop()
    second = start("--max-queue", "1")
    assert form(second, {**SMALL, "audio": data_url(wav())}, headers=headers).json()["id"] == job["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_keys_are_bounded(server: Server, key: str) -> None:
    assert form(server, {**SMALL, "audio": data_url(wav())}, headers={"Idempotency-Key": key}).status_code == 422


# -- files -------------------------------------------------------------------------------------------------------------


def test_head_tells_what_get_would_send(server: Server) -> None:
    job = server.wait(
        form(server, {**SMALL, "audio": data_url(wav()), "input_reference": data_url(png())}).json()["id"]
    )
    for path in (f"/v1/videos/{job['id']}/content", f"/v1/videos/{job['id']}/inputs/audio", "/"):
        head, get = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
        assert head.headers["etag"] == get.headers["etag"]
    assert server.client.head("/v1/videos/video_0/content").status_code == 404


# -- a disk that takes nothing -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(start: Callable[..., Server]) -> Server:
    server = start("--no-standby", "--state-dir", "state")
    assert server.client.get("/ready").json()["ready"]
    return server


def test_a_full_disk_is_the_server_s_trouble(disk: Server) -> None:
    """No file of the server may grow: a write is answered EFBIG, as by a quota."""
    limits = resource.prlimit(disk.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(disk.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    for size in (1000, 5_000_000):  # kept in memory while it comes, and in a file
        reply = disk.client.post("/v1/videos", data={"prompt": "x"}, files={"audio": wav() + b"x" * size})
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "storage_full"), reply.text
        assert reply.json()["error"]["type"] == "server_error"
        body = json.dumps({"prompt": "x", "audio": data_url(wav() + b"x" * size)})
        assert disk.client.post("/generate", content=body).status_code == 507
    told = wait_for(lambda: (reply := disk.client.get("/ready")).status_code == 503 and reply.json(), 10)
    assert "disk is full" in told["problem"]
    resource.prlimit(disk.process.pid, resource.RLIMIT_FSIZE, limits)
    assert list((disk.folder / "state/inputs").iterdir()) == []
    wait_for(lambda: disk.client.get("/ready").status_code == 200, 10)
    assert disk.make()["status"] == "completed"


def test_a_folder_that_cannot_be_written_to_is_not_ready(disk: Server) -> None:
    outputs = disk.folder / "outputs"
    outputs.rename(disk.folder / "elsewhere")
    told = wait_for(lambda: (reply := disk.client.get("/ready")).status_code == 503 and reply.json(), 10)
    assert "cannot be written" in told["problem"]
    assert str(disk.folder) not in told["problem"]
    (disk.folder / "elsewhere").rename(outputs)
    wait_for(lambda: disk.client.get("/ready").status_code == 200, 10)
