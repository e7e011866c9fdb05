"""`/mcp` with the client of the package `mcp`, over a real port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ltx_a2v.serving.http.bodies import VideoCreate
from ltx_a2v.serving.http.failures import answer_errors
from ltx_a2v.serving.http.routes import assistants
from ltx_a2v.serving.http.service import Service
from tests.serving.conftest import Server, data_url, png, wav

pytest.importorskip("mcp")

from mcp import Client
from mcp.types import CallToolResult, TextContent

SMALL = {"size": "256x128", "num_frames": 9, "num_inference_steps": 3}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
HEADERS = {"Accept": "application/json, text/event-stream"}


def with_client(server: Server, use: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with Client(f"{server.base}/mcp") as client:
            return await use(client)

    return asyncio.run(asyncio.wait_for(run(), 60))


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_an_assistant_makes_a_video(server: Server) -> None:
    async def use(client: Client) -> dict[str, Any]:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"make_video", "get_video", "list_videos"}
        assert all(tool.description for tool in tools.values())
        fields = tools["make_video"].input_schema["properties"]
        assert set(fields) == set(VideoCreate.model_fields) - {"audio_reference", "model"}
        files = {"audio": data_url(wav()), "input_reference": data_url(png(), "image/png")}
        made = await client.call_tool("make_video", {"prompt": "slow=0.01", **files, **SMALL})
        video: dict[str, Any] = made.structured_content
        assert json.loads(text_of(made)) == video
        while video["status"] in ("queued", "in_progress"):
            reply = await client.call_tool("get_video", {"id": video["id"], "wait": 30})
            video = reply.structured_content
        page = (await client.call_tool("list_videos", {"limit": 1})).structured_content
        assert [one["id"] for one in page["data"]] == [video["id"]]
        return video

    video = with_client(server, use)
    assert (video["status"], video["has_image"], video["size"]) == ("completed", True, "256x128")
    assert video == server.get(video["id"])
    assert server.client.get(video["result"]["video_url"]).headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("make_video", {"prompt": "x"}, "audio is missing"),
        ("make_video", {"prompt": "x", "audio": "http://127.0.0.1/x.wav"}, "is a link, which is not followed"),
        ("make_video", {"prompt": "x", "audio": "../secret.wav"}, "is not a file below the server's input folder"),
        ("make_video", {"prompt": "x", "audio": data_url(b"no sound")}, "is not an audio or video file"),
        ("make_video", {"prompt": "x", "audio": data_url(wav()), "webhook_url": "http://[::1]/"}, "webhook_url is not"),
        ("make_video", {"prompt": "x", "audio": data_url(wav()), "image": "x"}, "the picture is input_reference"),
        ("get_video", {"id": "video_none"}, "There is no video 'video_none'"),
        ("get_video", {"id": "x", "wait": 61}, "wait 61 is too large"),
        ("list_videos", {"limit": "many"}, "limit 'many' is not a whole number"),
        ("make_vide", {}, "did you mean 'make_video'?"),
    ],
)
def test_mistakes_are_results_in_a_sentence(server: Server, tool: str, arguments: dict[str, Any], message: str) -> None:
    body = {**CALL, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    reply = server.client.post("/mcp", json=body, headers=HEADERS).json()["result"]
    assert reply["isError"] is True
    assert message in reply["content"][0]["text"]


def test_the_endpoint_is_guarded_like_all_routes(start: Any) -> None:
    server = start("--no-standby", "--max-json-mb", "1", environment={"LTX_A2V_API_KEY": "secret"})
    good = {**HEADERS, "Authorization": "Bearer secret"}

    def status(headers: dict[str, str], **body: Any) -> int:
        return httpx.post(f"{server.base}/mcp", headers=headers, **(body or {"json": CALL})).status_code

    assert status(good) == 200
    assert status(HEADERS) == 401
    assert status({**HEADERS, "Authorization": "Bearer wrong"}) == 401
    assert status({**good, "Host": "evil.example"}) == 403
    assert status({**good, "Origin": "http://evil.example"}) == 403
    assert status({**good, "Sec-Fetch-Site": "cross-site"}) == 403
    assert status(good, json={**CALL, "params": {"x": "y" * 2**20}}) == 413
    assert status(good, json={**CALL, "params": {"x": list(range(2000))}}) == 422
    assert status({**good, "Content-Type": "text/plain"}, content=b"{}") == 400
    assert status({**good, "Content-Type": "application/json"}, content=b"{") == 400
    assert httpx.get(f"{server.base}/mcp", headers=good).status_code == 405  # no stream that stays open
    assert not any("unexpected" in line or "Traceback" in line for line in server.lines)


def test_without_the_extra_the_endpoint_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    app = FastAPI()
    assistants.mount(app, cast(Service, None))
    answer_errors(app)
    reply = TestClient(app).post("/mcp", json=CALL)
    assert reply.status_code == 404
    assert reply.json()["error"]["message"].endswith("pip install 'WHEEL[mcp]'.")
