"""The Python examples of docs/http-api.md and docs/connections.md, as they stand there, against a server."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from standardwebhooks import WebhookVerificationError

from ltx_a2v.serving.webhooks.signing import Signer
from tests.serving.conftest import ROOT, Server, png, wav

EXAMPLES, CONNECTIONS = (
    re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    for page in ("http-api.md", "connections.md")
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of OpenAI's client
@pytest.mark.parametrize("code", EXAMPLES, ids=["httpx", "openai"])
def test_an_example_makes_a_video(server: Server, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.wav").write_bytes(wav())
    (tmp_path / "face.png").write_bytes(png())
    exec(compile(code.replace("http://127.0.0.1:8892", server.base), "example", "exec"), {})
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"


def test_an_example_waits_for_a_video(server: Server) -> None:
    names = {"client": server.client, "job": server.create("slow=0.01")}
    exec(CONNECTIONS[0], names)
    assert names["job"]["status"] == "completed"


def test_an_example_checks_a_signature(tmp_path: Path) -> None:
    body = b'{"type": "video.completed"}'
    signer = Signer(None, tmp_path)
    secret = (tmp_path / "webhook-secret").read_text().strip()
    names = {"body": body, "headers": signer.headers("msg_a", int(time.time()), body)}
    exec(CONNECTIONS[1].replace("whsec_…", secret), names)
    assert names["event"] == {"type": "video.completed"}
    with pytest.raises(WebhookVerificationError):
        exec(CONNECTIONS[1].replace("whsec_…", secret), {**names, "body": body + b" "})
