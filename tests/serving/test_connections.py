"""Clients that hold connections."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from ltx_a2v.serving.logs import Repeats
from tests.serving import faults_http
from tests.serving.conftest import Server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It gives clients a second."""
    flags = ("--head-timeout", "1s", "--upload-timeout", "1s", "--no-standby", "--max-connections", "60")
    one = Server(tmp_path_factory.mktemp("hasty"), *flags)
    yield one
    assert one.stop() == 0


def test_a_head_that_never_ends_is_closed(hasty: Server) -> None:
    _, figures = faults_http.slow_heads(hasty, 50, seconds=10)
    assert (figures["still_open"], figures["health_failed"]) == (0, 0)


def test_a_body_that_never_ends_is_closed(hasty: Server) -> None:
    _, figures = faults_http.slow_bodies(hasty, 50, seconds=15)
    assert (figures["still_open"], figures["health_failed"]) == (0, 0)


def test_a_body_that_nobody_reads_is_closed(hasty: Server) -> None:
    _, figures = faults_http.unread_bodies(hasty, 20, seconds=15)
    assert (figures["still_open"], figures["health_failed"]) == (0, 0)


def test_a_slow_head_is_told(hasty: Server) -> None:
    host, _, port = hasty.base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert client.recv(1000) == b""


def test_a_connection_serves_many_requests(hasty: Server) -> None:
    """The deadlines start again with each of them."""
    host, _, port = hasty.base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for _ in range(3):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            time.sleep(0.4)
            client.sendall(b"\r\n")
            assert b"HTTP/1.1 200" in faults_http.read_until(client, b'"ok"', 5)


def test_half_open_connections_do_not_keep_others_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    """More of them than the server has descriptors, within the deadline of their heads."""
    with faults_http.few_descriptors(128):
        server = Server(tmp_path_factory.mktemp("few"), "--no-standby")
    try:
        _, figures = faults_http.half_open(server, 200, seconds=3)
        assert figures["health_failed"] == 0
        assert figures["logged_bytes"] < 10_000
    finally:
        server.stop()


def test_busy_connections_are_not_closed_for_new_ones(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = Server(tmp_path_factory.mktemp("busy"), "--max-connections", "8")
    try:
        job = server.create("slow=0.1")
        server.client.close()
        head = f"GET /v1/videos/{job['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with faults_http.clients(server, 8, head) as followers:
            assert all(b"event: video" in faults_http.read_until(one, b"event: video", 5) for one in followers)
            with faults_http.clients(server, 1, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as (newcomer,):
                assert newcomer.recv(1000).startswith(b"HTTP/1.1 503")
            assert all(b"event: video" in faults_http.read_until(one, b"event: video", 5) for one in followers)
    finally:
        server.stop()


def test_bodies_at_a_trickle_do_not_keep_others_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    flags = ("--max-connections", "8", "--head-timeout", "1s", "--no-standby")
    server = Server(tmp_path_factory.mktemp("trickle"), *flags)
    try:
        head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with faults_http.clients(server, 8, head + b"Content-Length: 100000\r\n\r\n{") as slow:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                for one in slow:
                    one.sendall(b"x")
                time.sleep(0.1)
            assert server.client.get("/health").status_code == 200
    finally:
        server.stop()


def test_followers_that_leave_leave_nothing(server: Server) -> None:
    _, figures = faults_http.leaving_followers(server, 40)
    assert figures == {"told": 40, "left_over": 0, "ended": 1}


def test_a_library_says_the_same_once_a_minute() -> None:
    lines, repeats = [], Repeats()
    for name in ("asyncio", "asyncio", "ltx_a2v.serving", "ltx_a2v.serving", "asyncio"):
        record = logging.LogRecord(
            name, logging.ERROR, "", 0, "socket.accept() out of system resource\nsocket: x", (), None
        )
        if repeats.filter(record):
            lines.append(name)
    assert lines == ["asyncio", "ltx_a2v.serving", "ltx_a2v.serving"]
