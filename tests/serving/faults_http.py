"""What clients do to a server's connections. Each function returns (what was done, figures).

`server` is a running `Server` of the tests. Nothing here asserts: tests and the table of faults judge the figures.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.serving.conftest import Server, data_url, wav

Figures = dict[str, float]


def slow_heads(server: Server, count: int = 50, seconds: float = 30) -> tuple[str, Figures]:
    """Clients that send a byte of their head every 0.2 s and never finish."""
    with clients(server, count, b"GET / HTTP/1.1\r\nX: ") as open_ones:
        figures = _watch(server, open_ones, seconds, drip=b"x")
    return f"{count} clients that never finish the head of their request", figures


def slow_bodies(server: Server, count: int = 50, seconds: float = 30) -> tuple[str, Figures]:
    """Clients that send a byte of their body every 0.2 s, so that no pause is long, and never finish."""
    with clients(server, count, _post("application/json", 100_000) + b'{"prompt": "') as open_ones:
        figures = _watch(server, open_ones, seconds, drip=b"x")
    return f"{count} clients that never finish the body of their request", figures


def unread_bodies(server: Server, count: int = 50, seconds: float = 30) -> tuple[str, Figures]:
    """Clients that announce a body to a route that reads none, and send it byte by byte."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with clients(server, count, head) as open_ones:
        figures = _watch(server, open_ones, seconds, drip=b"x")
    return f"{count} clients that send a body where none is read", figures


def half_open(server: Server, count: int = 200, descriptors: int = 128, seconds: float = 10) -> tuple[str, Figures]:
    """More half-sent heads than the server has descriptors. Start it with as few: `few_descriptors`."""
    with clients(server, count, b"GET / HTTP/1.1\r\nX: ") as open_ones:
        figures = _watch(server, open_ones, seconds)
    return f"{count} half-sent heads, {descriptors} descriptors", figures


def large_json(server: Server, count: int = 10, mib: int = 29) -> tuple[str, Figures]:
    """Large JSON bodies at once. The key "peak_mib" is the server's highest resident memory."""
    sound = wav(mib * 3 * 2**18 / 16_000)  # base64 makes four bytes of three
    body = json.dumps({"prompt": "x", "num_frames": 9, "audio": data_url(sound)}).encode()
    statuses: list[int] = []

    def post() -> None:
        reply = httpx.post(
            f"{server.base}/v1/videos", content=body, headers={"Content-Type": "application/json"}, timeout=60
        )
        statuses.append(reply.status_code)

    before = _peak_mib(server)
    threads = [threading.Thread(target=post) for _ in range(count)]
    slowest = _slowest_health(server, threads)
    figures = {
        "accepted": statuses.count(200),
        "refused": sum(status in (429, 503) for status in statuses),
        "other": sum(status not in (200, 429, 503) for status in statuses),
        "mib_before": before,
        "peak_mib": _peak_mib(server),
        "slowest_health_s": slowest,
    }
    return f"{count} JSON bodies of {mib} MiB at once", figures


def leaving_followers(server: Server, count: int = 120) -> tuple[str, Figures]:
    """Followers of a job's events that leave after the first event."""
    job = server.create("slow=0.05", num_inference_steps=40)
    head = f"GET /v1/videos/{job['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with clients(server, count, head) as open_ones:
        told = sum(b"event: video" in read_until(client, b"event: video", 10) for client in open_ones)
        descriptors = _descriptors(server)
    left = _until(lambda: _descriptors(server) <= descriptors - count, 10)
    server.client.post(f"/v1/videos/{job['id']}/cancel")
    ended = server.wait(job["id"])["status"]
    return f"{count} followers that leave", {
        "told": told,
        "left_over": int(not left),
        "ended": int(ended == "cancelled"),
    }


@contextlib.contextmanager
def few_descriptors(count: int = 128) -> Iterator[None]:
    """A server that is started inside inherits this bound."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def clients(server: Server, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    host, _, port = server.base.removeprefix("http://").rpartition(":")
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(OSError):  # refused already
                client.sendall(first)
            opened.append(client)
        yield opened


def _watch(server: Server, clients: list[socket.socket], seconds: float, drip: bytes = b"") -> Figures:
    """Until all clients are closed or the time is over, while others are served."""
    logged = sum(map(len, server.lines))
    open_, delays, failed = set(clients), [], 0
    began = time.monotonic()
    while open_ and time.monotonic() - began < seconds:
        asked = time.monotonic()
        try:
            failed += httpx.get(f"{server.base}/health", timeout=2).status_code != 200
        except httpx.HTTPError:
            failed += 1
        delays.append(time.monotonic() - asked)
        open_ -= {client for client in open_ if not _is_open(client, drip)}
        time.sleep(0.2)
    return {
        "still_open": len(open_),
        "closed_after_s": time.monotonic() - began,
        "health_failed": failed,
        "slowest_health_s": max(delays, default=0.0),
        "logged_bytes": sum(map(len, server.lines)) - logged,
    }


def _is_open(client: socket.socket, drip: bytes) -> bool:
    try:
        while select.select([client], [], [], 0)[0]:
            if not client.recv(65536):
                return False
        if drip:
            client.sendall(drip)
    except OSError:
        return False
    return True


def _post(kind: str, length: int) -> bytes:
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode()


def _slowest_health(server: Server, threads: list[threading.Thread]) -> float:
    slowest = 0.0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        asked = time.monotonic()
        httpx.get(f"{server.base}/health", timeout=30)
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.02)
    return slowest


def _peak_mib(server: Server) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def read_until(client: socket.socket, words: bytes, seconds: float) -> bytes:
    read, end = b"", time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while words not in read and time.monotonic() < end and (chunk := client.recv(65536)):
            read += chunk
    return read


def _until(condition: Callable[[], Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
