"""Uploads are opened before their job is accepted, in a process of their own; replies name the field that gave them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ltx_a2v.errors import InvalidAudio, InvalidImage
from ltx_a2v.serving.work import checking
from ltx_a2v.serving.work.checking import FileChecker, FileCheckers
from ltx_a2v.serving.work.confinement import ONE_THREAD
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import Server, data_url, png, wav

TEXT = b"this is a letter, and neither a picture nor a sound\n" * 20
HEAD_OF_WAV = wav()[:44]


def half_png() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(file, "PNG")
    return file.getvalue()[: file.tell() // 2]


BROKEN = [("image", TEXT), ("image", half_png()), ("audio", TEXT), ("audio", HEAD_OF_WAV)]


@pytest.mark.parametrize(("which", "content"), BROKEN, ids=["text", "half a png", "text as sound", "wav without sound"])
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/sync", "/generate"])
def test_broken_files_are_refused_at_once(server: Server, path: str, which: str, content: bytes) -> None:
    before = server.client.get("/v1/videos?limit=1").json()["first_id"]
    image = "image" if path == "/generate" else "input_reference"
    files = {"audio": wav(), image: png(), (image if which == "image" else which): content}
    reply = server.client.post(path, data={"prompt": "x"}, files=files)
    assert reply.status_code == 422, reply.text
    error = reply.json() if path == "/generate" else reply.json()["error"]
    assert (error["code"], error["param"]) == (f"invalid_{which}", image if which == "image" else which)
    assert "/" not in str(error.get("message") or error["error"]), "a path of the server"
    assert server.client.get("/v1/videos?limit=1").json()["first_id"] == before


def test_the_field_that_gave_the_file_is_named(server: Server) -> None:
    body: dict[str, Any] = {"prompt": "x", "audio_reference": {"audio_url": data_url(TEXT)}}
    assert server.client.post("/v1/videos", json=body).json()["error"]["param"] == "audio_reference"
    body = {"prompt": "x", "audio": data_url(wav()), "input_reference": {"image_url": data_url(TEXT)}}
    error = server.client.post("/v1/videos", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", "input_reference")
    (server.folder / "inputs" / "letter.wav").write_bytes(TEXT)
    reply = server.client.post("/generate", json={"prompt": "x", "audio": "letter.wav"})
    assert (reply.status_code, reply.json()["param"]) == (422, "audio")


def test_a_start_beyond_the_end_is_refused(server: Server) -> None:
    data = {"prompt": "x", "audio_start_time": "9"}
    error = server.client.post("/v1/videos", data=data, files={"audio": wav(1)}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_audio", "audio")
    assert "1.00 s long; start earlier" in error["message"]


def test_refused_files_are_not_kept(start: Callable[..., Server]) -> None:
    server = start("--no-standby")
    assert server.client.post("/v1/videos", data={"prompt": "x"}, files={"audio": TEXT}).status_code == 422
    assert list((server.folder / "outputs/.state/inputs").iterdir()) == []


# -- the process itself ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def checker(folder: Path) -> AsyncIterator[FileChecker]:
    one = FileChecker(ServerSettings(output_dir=folder))
    try:
        yield one
    finally:
        await one.stop()


def files(folder: Path) -> tuple[str, str]:
    """A sound, and a place where reading never ends."""
    (folder / "good").write_bytes(wav())
    os.mkfifo(folder / "endless")
    return str(folder / "good"), str(folder / "endless")


def test_a_file_that_stalls_it_is_refused_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "CHECK_SECONDS", 1.0)
    good, endless = files(tmp_path)

    async def run() -> None:
        async with checker(tmp_path) as one:
            with pytest.raises(InvalidImage, match="cannot be opened"):
                await one.check("image", endless, 0.0)
            monkeypatch.setattr(checking, "CHECK_SECONDS", 20.0)
            await one.check("audio", good, 0.0)

    asyncio.run(run())


def test_a_file_that_crashes_it_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    good, endless = files(tmp_path)

    async def run() -> None:
        async with checker(tmp_path) as one:
            await one.check("audio", good, 0.0)
            assert one.process is not None
            asyncio.get_running_loop().call_later(0.3, one.process.kill)
            with pytest.raises(InvalidAudio, match="cannot be opened"):
                await one.check("audio", endless, 0.0)
            await one.check("audio", good, 0.0)

    asyncio.run(run())


def test_it_has_no_key_and_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_A2V_API_KEY", "secret-key")
    monkeypatch.setenv("LTX_A2V_WEBHOOK_SECRET", "secret-key-of-webhooks")
    monkeypatch.setenv("LTX_A2V_PROMPT_ENHANCER_KEY", "secret-key-of-the-enhancer")
    good, _ = files(tmp_path)

    async def run() -> None:
        async with checker(tmp_path) as one:
            await one.check("audio", good, 0.0)
            assert one.process is not None
            proc = Path(f"/proc/{one.process.pid}")
            assert b"secret-key" not in (proc / "environ").read_bytes()
            limits = (proc / "limits").read_text()
            assert "Max file size             0                    0" in limits

    asyncio.run(run())


def test_one_that_ended_for_being_idle_is_replaced(tmp_path: Path) -> None:
    good, _ = files(tmp_path)

    async def run() -> None:
        async with checker(tmp_path) as one:
            await one.check("audio", good, 0.0)
            first = one.process
            assert first is not None
            assert first.stdin is not None
            first.stdin.close()  # as the end of its patience
            await first.wait()
            await one.check("audio", good, 0.0)
            assert one.process is not first

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO"])
def test_pictures_of_every_format_open_within_its_limits(tmp_path: Path, kind: str) -> None:
    """Decoders that start threads or processes could not."""
    Image.effect_noise((96, 64), 80).convert("RGB").save(tmp_path / "picture", kind)

    async def run() -> None:
        async with checker(tmp_path) as one:
            await one.check("image", str(tmp_path / "picture"), 0.0)

    asyncio.run(run())


def test_a_damaged_header_does_not_end_it(tmp_path: Path) -> None:
    """Pillow's AVIF decoder raises what it does not announce."""
    file = io.BytesIO()
    Image.effect_noise((24, 16), 80).convert("RGB").save(file, "AVIF")
    (tmp_path / "picture").write_bytes(file.getvalue().replace(b"iloc", b"xxxx"))

    async def run() -> None:
        async with checker(tmp_path) as one:
            with pytest.raises(InvalidImage):
                await one.check("image", str(tmp_path / "picture"), 0.0)
            assert one.process is not None
            assert one.process.returncode is None

    asyncio.run(run())


def test_a_file_that_takes_long_does_not_hold_up_the_next_one(tmp_path: Path) -> None:
    good, endless = files(tmp_path)

    async def run() -> None:
        both = FileCheckers(ServerSettings(output_dir=tmp_path))
        long = asyncio.create_task(both.check("image", endless, 0.0))
        try:
            await asyncio.sleep(0)
            await asyncio.wait_for(both.check("audio", good, 0.0), 10)
            assert not long.done()
        finally:
            long.cancel()
            await both.stop()

    asyncio.run(run())


def test_a_second_stop_waits_for_the_end_that_is_under_way(tmp_path: Path) -> None:
    good, _ = files(tmp_path)

    async def run() -> None:
        async with checker(tmp_path) as one:
            await one.check("audio", good, 0.0)
            process = one.process
            assert process is not None
            first = asyncio.create_task(one.stop())
            await asyncio.sleep(0)  # the first stop has begun
            await one.stop()
            assert process.returncode is not None
            await first

    asyncio.run(run())


def test_what_the_system_cannot_forbid_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(self: FileChecker, _: str) -> bytes:
        return json.dumps({"problem": None, "allowed": ["network access", "new processes"]}).encode()

    async def run() -> None:
        both = FileCheckers(ServerSettings(output_dir=tmp_path))
        for _ in range(2):
            await both.check("audio", "any", 0.0)

    monkeypatch.setattr(FileChecker, "_ask", answer)
    with caplog.at_level("WARNING"):
        asyncio.run(run())
    assert caplog.text.count("cannot keep what opens uploads from network access, new processes") == 1


CONFINED = """
import os, signal, socket, sys
from ltx_a2v.serving.work.confinement import confine

def attempts():
    yield "fork", lambda: os.fork() or os._exit(0)
    yield "execute", lambda: os.execv("/bin/true", ["true"])
    yield "connect", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
    yield "send", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
    yield "listen", lambda: socket.create_server(("127.0.0.1", 0))
    yield "make", lambda: open(sys.argv[2] + ".new", "w")
    yield "change", lambda: open(sys.argv[2], "r+b")
    yield "remove", lambda: os.unlink(sys.argv[2])
    yield "make a folder", lambda: os.mkdir(sys.argv[2] + ".folder")
    yield "signal", lambda: os.kill(os.getppid(), 0)
    yield "read the key of the server", lambda: open(f"/proc/{os.getppid()}/environ").read()
    yield "take memory", lambda: bytearray(5 * 2**30)
    yield "keep files open", lambda: [open(sys.argv[2]) for _ in range(100)]

def allowed(attempt):
    try:
        attempt()
    except (OSError, MemoryError):
        return False
    return True

print(confine())
print([name for name, attempt in attempts() if allowed(attempt)])
print(open(sys.argv[2], "rb").read(4))
"""
"""What it prints: what it could not forbid, what was possible, and a file that it may read."""


def test_the_kernel_forbids_all_but_reading(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"read")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", CONFINED, str(listener.getsockname()[1]), str(file)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **ONE_THREAD})
    allowed, possible, read = run.stdout.splitlines()
    if allowed != "[]":
        pytest.skip(f"this system cannot forbid {allowed}")
    assert (possible, read) == ("[]", "b'read'"), run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_namespaces_are_forbidden_the_rest_is_enforced(tmp_path: Path) -> None:
    """As in many containers. Root can then start processes, since the kernel does not count those of root."""
    file = tmp_path / "file"
    file.write_bytes(b"read")
    forbidden = "import ltx_a2v.serving.work.confinement as c\nc._enter_namespaces = set\n" + CONFINED
    command = [sys.executable, "-c", forbidden, "1", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **ONE_THREAD})
    allowed, possible, read = run.stdout.splitlines()[:3]
    assert "network access" in allowed
    assert ("new processes" in allowed) == (os.getuid() == 0)
    assert set(eval(possible)) <= {"fork", "send"}
    assert read == "b'read'"


def test_a_file_may_take_so_many_seconds_of_computing() -> None:
    code = """
from ltx_a2v.serving.work.confinement import allow_cpu_seconds, confine
confine()
allow_cpu_seconds(60)
allow_cpu_seconds(0.1)
while True: pass
"""
    run = subprocess.run([sys.executable, "-c", code], timeout=30, env={**os.environ, **ONE_THREAD})
    assert run.returncode == -signal.SIGXCPU
