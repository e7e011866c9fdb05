"""`GET /v1/videos/{id}` with entity tags, and waiting for a job's next change."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.serving import faults_http
from tests.serving.conftest import Server, wait_for

LONG = 30.0
"""Seconds of waits that something else ends."""


def test_a_job_that_is_as_it_was_is_not_sent_again(server: Server) -> None:
    path = f"/v1/videos/{server.make()['id']}"
    reply = server.client.get(path)
    tag = reply.headers["etag"]
    assert reply.headers["cache-control"] == "no-cache"
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = server.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert server.client.get(path, headers={"If-None-Match": '"other"'}).json() == reply.json()


def test_waiting_follows_a_job_to_its_end(server: Server) -> None:
    path = f"/v1/videos/{server.create('slow=0.01', num_inference_steps=10)['id']}"
    headers: dict[str, str] = {}
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["status"] in ("queued", "in_progress"):
        reply = server.client.get(path, params={"wait": LONG}, headers=headers)
        assert reply.status_code == 200
        headers = {"If-None-Match": reply.headers["etag"]}
        seen.append(reply.json())
    assert seen[-1]["status"] == "completed"
    percents = [video["progress"] for video in seen]
    assert percents == sorted(percents)
    assert server.client.get(path, params={"wait": LONG}).json()["status"] == "completed"
    assert server.client.get(path, params={"wait": LONG}, headers=headers).status_code == 304


def test_waiting_ends_when_its_time_is_over(server: Server) -> None:
    with _busy(server) as path:
        tag = server.client.get(path).headers["etag"]
        began = time.monotonic()
        reply = server.client.get(path, params={"wait": 0.2}, headers={"If-None-Match": tag})
        assert (reply.status_code, time.monotonic() - began >= 0.2) == (304, True)
        assert server.client.get(path, params={"wait": 61}).status_code == 422
        assert server.client.get(path, params={"wait": "nan"}).status_code == 422


def test_waiting_clients_are_bounded_and_end_with_the_server(start: Any) -> None:
    server = start("--max-connections", "8")
    with _busy(server) as path:
        head = f"GET {path}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with faults_http.clients(server, 5, head) as clients:
            (refused,), _, _ = select.select(clients, [], [], 20)
            assert refused.recv(1000).startswith(b"HTTP/1.1 503")
            reply = server.client.get(path, params={"wait": 0.01})
            assert reply.status_code == 503
            assert "Too many clients wait" in reply.json()["error"]["message"]
            assert int(reply.headers["retry-after"]) > 0
            assert server.client.get(path).json()["status"] == "queued"
        _wait_no_more(server, path)
        with faults_http.clients(server, 5, _asking_assistant(path)) as clients:
            (refused,), _, _ = select.select(clients, [], [], 20)
            assert b"Too many clients wait" in faults_http.read_until(refused, b"}", 20)
        _wait_no_more(server, path)
        with _waiting(server, path) as replies:
            server.process.terminate()
        assert [reply.status_code for reply in replies] == [200]
        server.client.close()


def _wait_no_more(server: Server, path: str) -> None:
    """Those that have left."""
    wait_for(lambda: server.client.get(path, params={"wait": 0.01}).status_code == 200)


def _asking_assistant(path: str) -> bytes:
    arguments = {"id": path.rpartition("/")[2], "wait": 60}
    call = {"method": "tools/call", "params": {"name": "get_video", "arguments": arguments}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, **call}).encode()
    kind = "Content-Type: application/json\r\nAccept: application/json, text/event-stream"
    return f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def _busy(server: Server) -> Iterator[str]:
    """The path of a job that waits, and stays as it is, since another one runs."""
    running = server.create("slow=0.2", num_inference_steps=1000)
    server.wait(running["id"], "in_progress")
    waiting = server.create()
    yield f"/v1/videos/{waiting['id']}"
    if not server.client.is_closed:
        for job in (waiting, running):
            server.client.post(f"/v1/videos/{job['id']}/cancel")


@contextlib.contextmanager
def _waiting(server: Server, path: str) -> Iterator[list[httpx.Response]]:
    """A client that waits for the job; its reply is there when the context has ended."""
    began = time.monotonic()
    replies: list[httpx.Response] = []
    asked = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.base, timeout=LONG + 10) as client:
            client.event_hooks["request"] = [lambda request: asked.set()]
            replies.append(client.get(path, params={"wait": LONG}))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    yield replies
    thread.join(LONG + 20)
    assert time.monotonic() - began < LONG, "its own time ended it"
