"""Tells the receivers of jobs that have ended, and tells them again until they have understood.

What is to be told is in the job's record, so it outlives the server. A record is leased for as long as a try may take:
a server that dies meanwhile tells it again, so a receiver may be told twice, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx

import ltx_a2v
from ltx_a2v.errors import InvalidRequest, StorageFailed
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.webhooks.places import Places, Refused
from ltx_a2v.serving.webhooks.sending import SEND_SECONDS, send
from ltx_a2v.serving.webhooks.signing import Signer
from ltx_a2v.serving.work.changes import ANY, Changes
from ltx_a2v.serving.work.waiting import wait_up_to

DELAYS = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
"""Seconds after each try that failed; after the last one the receiver is given up, a bit more than a day later."""
SPREAD = 0.2
"""Share by which a delay varies, so that many messages do not come at once."""
LEASE_SECONDS = 4 * SEND_SECONDS
AT_ONCE = 8
LOOK_SECONDS = 60.0
"""Between two looks at the records without a reason."""
GONE = 410
"""The receiver wants no more."""


class Courier:
    """Serves all jobs of one server. `video` gives the job as replies have it."""

    def __init__(
        self,
        store: JobStore,
        changes: Changes,
        places: Places,
        signer: Signer,
        video: Callable[[Job], Awaitable[api.Video]],
        delays: tuple[float, ...] = DELAYS,
    ) -> None:
        self._store = store
        self._changes = changes
        self._places = places
        self._signer = signer
        self._video = video
        self._delays = delays
        self._free = AT_ONCE

    async def run(self) -> None:
        """Until cancelled; what is not told by then stays in the records."""
        with self._changes.watch(ANY) as changed:
            async with asyncio.TaskGroup() as group:
                while True:
                    changed.clear()
                    try:
                        await self._begin_due(group, changed)
                        pause = await self._seconds_to_next()
                    except StorageFailed as error:
                        say("webhook", str(error), level=40)
                        pause = LOOK_SECONDS
                    await wait_up_to(changed, pause)

    async def _begin_due(self, group: asyncio.TaskGroup, changed: asyncio.Event) -> None:
        while self._free:
            now = time.time()
            if await self._next_at() > now:
                return
            job = await asyncio.to_thread(self._store.take_webhook, now, now + LEASE_SECONDS)
            if job is None:
                return
            self._free -= 1
            group.create_task(self._tell(job, changed))

    async def _seconds_to_next(self) -> float:
        if not self._free:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(0.0, await self._next_at() - time.time()))

    async def _next_at(self) -> float:
        return await asyncio.to_thread(self._store.next_webhook_at)

    async def _tell(self, job: Job, changed: asyncio.Event) -> None:
        try:
            await self._try(job)
        except StorageFailed as error:
            say("webhook", f"told, and will be told again: {error}", id=job.id, level=40)
        except asyncio.CancelledError:
            with contextlib.suppress(StorageFailed):
                self._store.delay_webhook(job.id, time.time())
            raise
        except Exception as error:  # one message must not end the others
            say("webhook", f"unexpected {type(error).__name__}: {error}", id=job.id, level=40)
        finally:
            self._free += 1
            changed.set()

    async def _try(self, job: Job) -> None:
        problem = await self._problem(job)
        tries = job.webhook_tries
        if problem is None:
            await asyncio.to_thread(self._store.delay_webhook, job.id, None)
            say("webhook", f"told that it is {job.state}", id=job.id, attempt=tries)
        elif tries > len(self._delays) or problem == _of_status(GONE):
            await asyncio.to_thread(self._store.delay_webhook, job.id, None)
            say("webhook", f"given up: {problem}", id=job.id, attempt=tries, level=30)
        else:
            delay = self._delays[tries - 1] * random.uniform(1, 1 + SPREAD)
            await asyncio.to_thread(self._store.delay_webhook, job.id, time.time() + delay)
            say("webhook", f"not told yet: {problem}", id=job.id, attempt=tries, level=30)

    async def _problem(self, job: Job) -> str | None:
        """Why the receiver does not know of it; None where it does. Does not name the URL, which may hold a secret."""
        body = await self._body(job)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ltx-a2v/{ltx_a2v.__version__}",
            **self._signer.headers(message_id(job), int(time.time()), body),
        }
        try:
            target = self._places.target(job.webhook or "")
            status = await send(self._places, target, headers, body)
        except (Refused, InvalidRequest) as error:
            return str(error)
        except (TimeoutError, httpx.TimeoutException):
            return f"no reply within {SEND_SECONDS:g} s"
        except (OSError, httpx.HTTPError) as error:
            return f"no connection ({type(error).__name__})"
        return None if 200 <= status < 300 else _of_status(status)

    async def _body(self, job: Job) -> bytes:
        video = await self._video(job)
        ended = datetime.fromtimestamp(job.finished_at or time.time(), UTC).isoformat(timespec="seconds")
        event = {"type": f"video.{job.state}", "timestamp": ended, "data": video}
        return api.VideoEvent.model_validate(event).model_dump_json().encode()


def message_id(job: Job) -> str:
    """The same at every try."""
    return job.id.replace("video_", "msg_", 1)


def _of_status(status: int) -> str:
    return f"the receiver replied {status}"
