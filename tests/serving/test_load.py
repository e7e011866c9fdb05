"""Many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.serving.conftest import Server, wav


@pytest.mark.slow
def test_two_hundred_at_once_against_a_queue_of_32(start: Callable[..., Server]) -> None:
    server = start("--max-queue", "32")
    form = {"prompt": "x", "size": "64x64", "num_frames": "9", "num_inference_steps": "1"}

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.base, timeout=60, limits=httpx.Limits(max_connections=200)) as c:
            posts = (c.post("/v1/videos", data=form, files={"audio": wav()}) for _ in range(200))
            return await asyncio.gather(*posts)

    replies = asyncio.run(all_at_once())
    accepted = [reply.json()["id"] for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(accepted) + len(refused) == 200
    assert len(accepted) >= 32
    assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)
    assert {server.wait(name, seconds=60)["status"] for name in accepted} == {"completed"}
    total = server.client.get("/v1/videos?limit=100").json()["data"]
    assert {video["id"] for video in total} == set(accepted)
