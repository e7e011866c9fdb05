"""Calls for a job: with them a consumer claims only when called, as a replica must that may be removed when idle."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ltx_a2v.serving.jobs.records import Job


class Calls:
    """Those that wait for an answer. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Job | None]] = deque()

    async def claimed(self, wake: Callable[[], None]) -> Job | None:
        """The job that the consumer has claimed for this call; None where none was queued."""
        call: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(call)
        wake()
        return await call

    @property
    def are_none(self) -> bool:
        while self._waiting and self._waiting[0].done():  # its caller has left
            self._waiting.popleft()
        return not self._waiting

    def answer(self, job: Job | None) -> None:
        if not self.are_none:
            self._waiting.popleft().set_result(job)
