"""A clock that tests can replace, and ways of awaiting that asyncio does not offer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from ltx_a2v.settings.units import NEVER


class Clock(Protocol):
    """Seconds since an arbitrary moment, and waiting; tests pass their own."""

    def now(self) -> float: ...
    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set or the time is over."""


class SystemClock:
    """The monotonic clock, which setting the date does not change."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        await wait_up_to(event, seconds)


async def wait_up_to(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if seconds == NEVER else seconds):  # `wait_for` can swallow a cancellation
            await event.wait()


async def first_of(*events: asyncio.Event | None) -> None:
    """Until one of them is set."""
    waits = [asyncio.create_task(event.wait()) for event in events if event is not None]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; where this is cancelled, finish `work` before raising."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
