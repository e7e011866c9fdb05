"""Who is let in, and to what."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import pickle
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from ltx_a2v.cli.main import main
from ltx_a2v.errors import Forbidden, InvalidInput
from ltx_a2v.serving.http.security import ServedHosts, check_bind
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import Server, png, wait_for, wav

KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = Server(tmp_path_factory.mktemp("locked"), environment={"LTX_A2V_API_KEY": KEY})
    yield server
    server.stop()


@pytest.mark.parametrize(
    "path",
    ["/", "/static/app.js", "/v1/videos", "/v1/models", "/metrics", "/ready", "/openapi.json", "/api/ps", "/nowhere"],
)
def test_everything_wants_the_key(locked: Server, path: str) -> None:
    assert locked.client.get(path).status_code == 401
    assert locked.client.get(path, headers={"Authorization": f"Bearer {KEY}x"}).status_code == 401


def test_health_alone_is_open(locked: Server) -> None:
    assert locked.client.get("/health").json()["status"] == "ok"


def test_the_key_opens_in_three_ways(locked: Server) -> None:
    box = base64.b64encode(f"anyone:{KEY}".encode()).decode()
    ways = [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}, {"Authorization": f"Basic {box}"}]
    assert [locked.client.get("/v1/models", headers=way).status_code for way in ways] == [200, 200, 200]


def test_the_key_is_not_told(locked: Server) -> None:
    locked.client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert KEY not in "\n".join(locked.lines)


@pytest.mark.parametrize(
    "header", [b"Basic !!!", b"Basic \xe9\xe9\xe9=", b"Basic /////w==", b"Bearer", b"Bearer \xff\xfe", b"x"]
)
def test_malformed_credentials_are_only_refused(locked: Server, header: bytes) -> None:
    assert locked.client.get("/v1/models", headers=[(b"Authorization", header)]).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_an_open_address_needs_a_key(host: str) -> None:
    with pytest.raises(InvalidInput, match="LTX_A2V_API_KEY"):
        check_bind(ServerSettings(host=host))
    check_bind(ServerSettings(host=host, api_key="secret"))
    check_bind(ServerSettings(host=host, insecure=True))


def test_refusing_to_start_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("ltx-a2v: --host 0.0.0.0 can be reached by others")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "localhost:8892@evil"}, 403),
        ({"Host": "localhost:1:2"}, 403),
        ({"Host": "localhost:"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost..:1"}, 403),
        ({"Host": "evil.example.:1"}, 403),
        ({"Host": "0.0.0.0:1"}, 403),
        ({"Host": "[::1]@evil:1"}, 403),
        ({"Host": "[::ffff:7f00:1]:1"}, 403),
        ({"Host": "127.1:1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Host": "localhost.:1"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1@evil", "Host": "localhost:1"}, 403),
        ({"Origin": "http://localhost:1.evil", "Host": "localhost:1"}, 403),
        ({"Origin": "http://localhost:2", "Host": "localhost:1"}, 403),
        ({"Origin": "http://127.0.0.1:1", "Host": "localhost:1"}, 403),
        ({"Origin": "evil://localhost:1", "Host": "localhost:1"}, 403),
        ({"Origin": "http://localhost:1", "Host": "LOCALHOST:1"}, 200),
        ({"Origin": "https://localhost:1", "Host": "localhost:1"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": "http://evil.example"}, 403),
    ],
)
def test_foreign_pages_and_names(server: Server, headers: dict[str, str], status: int) -> None:
    reply = server.client.get("/v1/models", headers=headers)
    assert reply.status_code == status
    assert "access-control-allow-origin" not in reply.headers


def test_only_a_link_may_come_from_elsewhere(server: Server) -> None:
    """A form on a foreign page is a navigation too, and old browsers send no Origin with it."""
    before = len(server.client.get("/v1/videos").json()["data"])
    for headers in ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Mode": "navigate"}):
        for path in ("/v1/videos", "/api/unload"):
            assert server.client.post(path, headers=headers).status_code == 403
    assert len(server.client.get("/v1/videos").json()["data"]) == before


@pytest.mark.parametrize(
    ("settings", "host", "served"),
    [
        ({"host": "0.0.0.0", "insecure": True}, "evil.example", False),
        ({"host": "0.0.0.0", "insecure": True}, "192.168.1.5:8892", True),
        ({"host": "0.0.0.0", "insecure": True}, "[fe80::1]:8892", True),
        ({"host": "0.0.0.0", "insecure": True}, socket.gethostname(), True),
        ({"host": "0.0.0.0", "insecure": True, "allowed_hosts": "gpu.lan, other"}, "gpu.lan:8892", True),
        ({"host": "0.0.0.0", "api_key": "k"}, "gpu.example", True),
        ({"host": "0.0.0.0", "api_key": "k"}, "gpu.example@evil", False),
        ({"host": "127.0.0.1"}, "192.168.1.5", False),
        ({"host": "127.0.0.1", "api_key": "k"}, "evil.example", False),
    ],
)
def test_hosts_that_are_served(settings: dict[str, Any], host: str, served: bool) -> None:
    """A foreign name that resolves to this machine is not (DNS rebinding)."""
    hosts = ServedHosts(ServerSettings(**settings))
    with contextlib.nullcontext() if served else pytest.raises(Forbidden):
        hosts.check([host])


def test_one_origin_is_given_once(server: Server) -> None:
    twice = [("Origin", server.base), ("Origin", server.base)]
    assert server.client.get("/v1/models", headers=twice).status_code == 403


def test_own_pages_may(server: Server) -> None:
    assert server.client.get("/v1/models", headers={"Origin": server.base}).status_code == 200


def test_headers_for_browsers(server: Server) -> None:
    for path in ("/", "/v1/models", "/nowhere"):
        headers = server.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
        assert "server" not in headers


@pytest.fixture
def generate(server: Server) -> Callable[[str], httpx.Response]:
    return lambda audio: server.client.post("/generate", json={"prompt": "x", "audio": audio, "num_frames": 9})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../outputs", "..", ".", "a/../../secret.wav", "link.wav", "folder-link/secret.wav", "pipe",
     "nothing",
     "\x00", "a\x00b", "~/x", "x" * 5000, "/proc/self/environ", "..\\..\\secret.wav", "%2e%2e/secret.wav"],
)  # fmt: skip
def test_paths_outside_the_input_folder(server: Server, generate: Callable[[str], httpx.Response], path: str) -> None:
    inputs = server.folder / "inputs"
    (server.folder / "secret.wav").write_bytes(wav())
    for name, target in [("link.wav", server.folder / "secret.wav"), ("folder-link", server.folder)]:
        (inputs / name).unlink(missing_ok=True)
        (inputs / name).symlink_to(target)
    if not (inputs / "pipe").exists():
        os.mkfifo(inputs / "pipe")
    reply = generate(path)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert str(server.folder) not in reply.text


@pytest.mark.parametrize("path", ["file:///etc/passwd", "http://127.0.0.1:1/x", "ftp://x/y"])
def test_nothing_is_fetched(generate: Callable[[str], httpx.Response], path: str) -> None:
    assert generate(path).status_code == 422


def test_paths_inside_are_let_in(server: Server, generate: Callable[[str], httpx.Response]) -> None:
    inputs = server.folder / "inputs"
    (inputs / "deep").mkdir(exist_ok=True)
    (inputs / "deep" / "speech.wav").write_bytes(wav())
    (inputs / "inner-link.wav").unlink(missing_ok=True)
    (inputs / "inner-link.wav").symlink_to(inputs / "deep" / "speech.wav")
    for path in ("deep/speech.wav", "inner-link.wav", str(inputs / "deep" / "speech.wav"), "deep/../deep/speech.wav"):
        assert generate(path).status_code == 200


def test_no_paths_without_an_input_folder(start: Callable[..., Server]) -> None:
    reply = start().client.post("/generate", json={"prompt": "x", "audio": "speech.wav"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert "without an input folder" in reply.json()["error"]


@pytest.mark.parametrize(
    "name", ["../../../evil.wav", "/etc/cron.d/evil", "a\r\nSet-Cookie: x", "", "x" * 3000, "\u202egnp.exe"]
)
def test_upload_names_are_not_used(server: Server, name: str) -> None:
    before = evil_files(server.folder.parent)
    reply = server.client.post(
        "/v1/videos", data={"prompt": "x", "num_frames": "9"}, files={"audio": (name or "a", wav(), "text/html")}
    )
    assert reply.status_code == 200, reply.text
    folder = server.folder / "outputs/.state/inputs" / reply.json()["id"]
    assert [file.name for file in folder.iterdir()] == ["audio"]
    assert evil_files(server.folder.parent) == before


def evil_files(folder: Path) -> set[str]:
    """Folders come and go meanwhile, which `os.walk` does not mind."""
    return {str(Path(place, name)) for place, _, names in os.walk(folder) for name in names if "evil" in name}


def test_uploads_are_never_shown_as_pages(server: Server) -> None:
    files = {"audio": ("a.html", wav() + b"<script>alert(1)</script>", "text/html")}
    job = server.client.post("/v1/videos", data={"prompt": "x"}, files=files).json()
    reply = server.client.get(f"/v1/videos/{job['id']}/inputs/audio")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")


def test_ids_and_paths_in_urls(server: Server) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "%00", "video_%2e%2e"):
        assert server.client.get(f"/v1/videos/{name}/content").status_code == 404
        assert server.client.get(f"/static/{name}").status_code in (404, 400)


def test_ids_are_unguessable(server: Server) -> None:
    ids = [server.create(num_frames=9)["id"] for _ in range(3)]
    assert len({name[:16] for name in ids}) == 3
    assert all(len(name) == len("video_") + 32 for name in ids)


def test_a_prompt_cannot_forge_a_log_line(server: Server) -> None:
    server.client.get("/v1/videos/x%0a[job]%20completed%20id=forged")
    assert not any(line.startswith("[job] completed id=forged") for line in server.lines)


def test_what_is_logged_of_a_path_is_printable_and_short(server: Server) -> None:
    server.client.get("/nothing%1b[2J%1b]0;owned%07%c2%9b31m%e2%80%ae" + "x" * 10_000)
    line = wait_for(lambda: next((line for line in server.lines if "nothing" in line), None), 5)
    assert line.isprintable()
    assert len(line) < 1200


def bomb(width: int, height: int) -> bytes:
    """A png of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def recorded(seconds: int) -> bytes:
    """Silence in webm as a browser's recorder writes it: without its length."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        for _ in range(seconds):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), "s16", "mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    duration, void = b"\x44\x89\x88", b"\xec\x40\x08"  # an element's name and its size, 8 bytes
    assert file.getvalue().count(duration) == 1
    return file.getvalue().replace(duration, void)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("which", "content", "code"),
    [
        ("image", bomb(60_000, 60_000), "image_too_many_pixels"),
        ("image", bomb(11_000, 11_000), "image_too_many_pixels"),
        ("image", bomb(64, 64)[:20], "invalid_image"),
        ("image", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "invalid_image"),
        ("image", pickle.dumps(print), "invalid_image"),
        ("audio", wav(31), "audio_too_long"),
        ("audio", recorded(31), "audio_too_long"),
        ("audio", b"RIFF\xff\xff\xff\xffWAVEfmt ", "invalid_audio"),
        ("audio", b"\0" * 5000, "invalid_audio"),
        ("audio", b"ffconcat version 1.0\nfile secret.wav\n", "invalid_audio"),
        ("audio", PLAYLIST.format(target="file:///etc/passwd").encode(), "invalid_audio"),
        ("audio", PLAYLIST.format(target="http://127.0.0.1:1/a.ts").encode(), "invalid_audio"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malicious_files_are_refused_in_other_processes(strict: Server, which: str, content: bytes, code: str) -> None:
    folder = strict.folder / "outputs" / ".state" / "inputs"
    files = {"audio": wav(), "image": png(), which: content}
    (folder / "secret.wav").write_bytes(wav())
    reply = strict.client.post("/generate", data={"prompt": "x", "num_frames": "9"}, files=files)
    assert reply.json()["code"] == code, reply.text
    assert reply.status_code == (413 if "too" in code else 422)
    assert reply.json()["param"] == which
    resident = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{strict.process.pid}/status").read_text())
    assert resident is not None
    assert int(resident[1]) < 150 * 1024, "nothing was decoded in the server"
    modules = Path(f"/proc/{strict.process.pid}/maps").read_text()
    assert "libavcodec" not in modules


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("strict"), "--persistent", "--max-audio-seconds", "30")
    yield one
    one.stop()
