"""The Python examples of docs/http-api.md and docs/connections.md, as they stand there, against a server."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from ltx_a2v.serving.webhooks.signing import Signer
from tests.serving.conftest import ROOT, Server, png, wav


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


EXAMPLES, CONNECTIONS = blocks("http-api.md", "python"), blocks("connections.md", "python")
ASSISTANTS = [json.loads(block)["mcpServers"]["ltx-a2v"] for block in blocks("connections.md", "json")]


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


@pytest.mark.parametrize("configuration", ASSISTANTS)
def test_configurations_of_assistants_lead_to_the_endpoint(configuration: dict[str, Any], server: Server) -> None:
    url = configuration.get("url") or next(one for one in configuration["args"] if one.startswith("http"))
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Accept": "application/json, text/event-stream"}
    reply = server.client.post(url.replace("http://127.0.0.1:8892", server.base), json=call, headers=headers)
    assert reply.json()["result"]["tools"]
