"""Uploads are opened before their job is accepted, in a process of their own; replies name the field that gave them."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ltx_a2v.errors import InvalidAudio, InvalidImage
from ltx_a2v.serving.work import checking
from ltx_a2v.serving.work.checking import FileChecker
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
