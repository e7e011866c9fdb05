"""Clients that follow a job on an open connection: event streams, and requests that wait for its next change."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import Request

from ltx_a2v.errors import Unavailable
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.jobs.records import Job

if TYPE_CHECKING:
    from ltx_a2v.serving.http.service import Service

LONGEST_WAIT = 60
"""Seconds: proxies give a silent request up after that."""
UntilLeft = Callable[[], Coroutine[Any, Any, object]]
"""Returns when the client has closed the connection."""
WAITING_SHARE = 0.5
"""Of all connections; the others stay free for uploads, downloads and short questions."""


class WaitingClients:
    """Counts requests that wait, at most `most` at a time. Used from the event loop's thread only."""

    def __init__(self, most: int) -> None:
        self._free = most

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Raises `Unavailable` where there are too many."""
        if self._free <= 0:
            raise Unavailable("Too many clients wait for jobs at once; ask without 'wait', or try again later.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def tag_of(video: api.Video) -> str:
    """A weak entity tag: the same while the job is the same, apart from the remaining seconds, which always change."""
    state = video.model_dump_json(exclude={"eta_seconds"})
    return f'W/"{hashlib.sha256(state.encode()).hexdigest()[:32]}"'


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether the header `If-None-Match` names the tag."""
    given = [one.strip() for one in (if_none_match or "").split(",")]
    return "*" in given or tag.removeprefix("W/") in [one.removeprefix("W/") for one in given]


async def states(service: Service, job: Job) -> AsyncGenerator[tuple[api.Video, str | None]]:
    """The job and its newest preview, a JPEG in base64: now and at every change, until it has ended, is deleted, or the
    server stops."""
    with service.scheduler.changes.watch(job.id) as changed:
        while not service.scheduler.stopping:
            changed.clear()
            current = await asyncio.to_thread(service.store.get, job.id)
            if current is None:
                return
            running = None if current.is_final else service.scheduler.running_job(job.id)
            yield await service.video(current), running.preview if running else None
            if current.is_final:
                return
            await changed.wait()


async def next_state(service: Service, job: Job, known: str | None, seconds: float, until_left: UntilLeft) -> api.Video:
    """The job when `known`, an `If-None-Match`, does not name its tag; without one, when it differs from now.

    It comes as it is when it has ended, `seconds` are over, the server stops, or the client has left. Raises
    `Unavailable`, and `NotFound` where the job is deleted meanwhile.
    """
    known = known or tag_of(await service.video(job))
    with service.waiting_clients.one():
        changing = asyncio.create_task(_until_changed(service, job, known))
        left = asyncio.create_task(until_left())
        try:
            await asyncio.wait({changing, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()
            left.cancel()
    return await service.video(await service.find(job.id))


async def _until_changed(service: Service, job: Job, known: str) -> None:
    async with contextlib.aclosing(states(service, job)) as found:
        async for video, _ in found:
            if not is_known(tag_of(video), known):
                return


async def until_disconnect(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
