"""`POST /v1/inspect`: what an uploaded video says of itself, read in the process that opens uploads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.marks.videos import write_marked
from tests.serving.conftest import Server, data_url, wav


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    return write_marked(tmp_path / "video.mp4", seed=5, width=768, height=512).read_bytes()


def test_settings_and_signature(server: Server, video: bytes) -> None:
    found = server.client.post("/v1/inspect", content=video).json()
    assert (found["state"], found["made_by_ai"], found["signature"]["is_known"]) == ("intact", True, True)
    assert found["settings"]["request"]["seed"] == 5
    assert found["made"]["system"] == "ltx-a2v"


def test_a_changed_video(server: Server, video: bytes) -> None:
    content = bytearray(video)
    content[content.index(b"mdat") + 40] ^= 1
    found = server.client.post("/v1/inspect", content=bytes(content)).json()
    assert found["state"] == "changed"
    assert found["settings"]["request"]["seed"] == 5


@pytest.mark.parametrize("content", [b"", b"text" * 1000, wav()])
def test_no_video(server: Server, content: bytes) -> None:
    reply = server.client.post("/v1/inspect", content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "The file is not a video."


def test_nothing_is_kept(start: Callable[..., Server], video: bytes) -> None:
    server = start("--max-audio-mb", "1", "--max-image-mb", "1")
    inputs = server.folder / "outputs" / ".state" / "inputs"
    assert server.client.post("/v1/inspect", content=video).status_code == 200
    assert server.client.post("/v1/inspect", content=b"x").status_code == 400
    assert server.client.post("/v1/inspect", content=bytes(4 * 2**20)).status_code == 413
    assert list(inputs.iterdir()) == []


def test_a_label_and_the_prompt_are_fields_of_a_request(server: Server) -> None:
    body = {"prompt": "x", "audio": data_url(wav()), "visible_label": "AI", "mark_prompt": True}
    job = server.client.post("/v1/videos", json=body).json()
    assert (job["settings"]["visible_label"], job["settings"]["mark_prompt"]) == ("AI", True)
    reply = server.client.post("/v1/videos", json={**body, "visible_label": "a\nb"})
    assert reply.status_code == 422
    assert "visible_label" in reply.json()["error"]["message"]
    assert "must be one line" in reply.json()["error"]["message"]
    for field in ("marks", "reproducible"):  # the operator's
        assert server.client.post("/v1/videos", json={**body, field: False}).status_code == 422
