"""What a server does so that several can use the same records: every second, one turn.

    beat        the lease of each running job is held on to, and its progress written where the others read it;
                a job that someone else asked to cancel is cancelled; one whose lease is lost is given up
    watch       who watches a job is told to look again: another server may have changed it
    claim       idle consumers look for a job that another server has queued
    settle      jobs whose owner is silent go back to the queue

While the database is away nothing of this happens and running jobs go on. When it is back, nobody settles anything for
the time of a lease, so that the owners are heard first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.work.changes import Changes
from ltx_a2v.serving.work.consumer import Consumer
from ltx_a2v.serving.work.recovery import settle_interrupted

TURN_SECONDS = 1.0
TURNS_PER_LEASE = 5
MAX_LOSSES = 5
"""Attempts at a job whose servers were lost: machines come and go, so more than for a worker that died."""


class Leases:
    """Runs until it is stopped. Does nothing where the records are this server's alone."""

    def __init__(
        self,
        store: JobStore,
        folders: Folders,
        changes: Changes,
        consumers: Sequence[Consumer],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._folders = folders
        self._changes = changes
        self._consumers = consumers
        self._monotonic = monotonic
        self._reached_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._store.is_shared:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self.turn()
            except StorageFailed as error:
                self._lost_sight(error)
            except Exception as error:  # one turn must not end the leases of all jobs
                say("server", f"unexpected {type(error).__name__}: {error}", level=40)
            await asyncio.sleep(min(TURN_SECONDS, self._store.lease_seconds / TURNS_PER_LEASE))

    async def turn(self) -> None:
        """Raises `StorageFailed` while the database is away."""
        for consumer in self._consumers:
            await self._beat(consumer)
        for consumer in self._consumers:
            if consumer.running is None:
                consumer.wake()
        self._changes.publish_all()
        await self._settle_overdue()

    async def _beat(self, consumer: Consumer) -> None:
        running = consumer.running
        if running is None or running.lost:
            return
        progress = running.progress.snapshot(time.monotonic()).as_json()
        held = await asyncio.to_thread(self._store.beat, running.job, progress)
        if held is not None and held.cancel_requested:
            consumer.cancel(running.job.id)
        if held is None and consumer.running is running and not running.ending:
            consumer.give_up(running.job.id)

    async def _settle_overdue(self) -> None:
        overdue = await asyncio.to_thread(self._store.overdue)
        now = self._monotonic()
        if self._reached_since is None:
            self._reached_since = now
            say("server", "the database answers")
        if now - self._reached_since < self._store.lease_seconds:
            return
        for job in overdue:
            await asyncio.to_thread(self._folders.discard_work, job.id, job.attempts)
            await asyncio.to_thread(
                settle_interrupted, self._store, self._folders, job, client_left=False, most=MAX_LOSSES
            )

    def _lost_sight(self, error: StorageFailed) -> None:
        if self._reached_since is not None:
            say("server", str(error), level=40)
        self._reached_since = None
