"""The Python examples of docs/http-api.md, as they stand there, against a server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.serving.conftest import ROOT, Server, png, wav

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "http-api.md").read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of OpenAI's client
@pytest.mark.parametrize("code", EXAMPLES, ids=["httpx", "openai"])
def test_an_example_makes_a_video(server: Server, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.wav").write_bytes(wav())
    (tmp_path / "face.png").write_bytes(png())
    exec(compile(code.replace("http://127.0.0.1:8892", server.base), "example", "exec"), {})
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"
