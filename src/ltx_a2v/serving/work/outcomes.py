"""Outcomes of jobs, kept in memory until they are written: a full disk must not leave a job in progress forever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.work.changes import Changes

RETRY_SECONDS = 1.0


class Outcomes:
    """Idempotent writes to the job store, which are retried until they succeed."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._unwritten: dict[str, Callable[[], object]] = {}
        self._told: set[str] = set()
        self._writing = asyncio.Lock()

    async def record(self, job_id: str, write: Callable[[], object]) -> None:
        """Write now, or at a later `flush`."""
        self._unwritten[job_id] = write
        await self.flush()

    async def flush(self) -> bool:
        """Write all outcomes; False where the disk refuses one.

        One consumer at a time: a job put back into the queue twice would run twice, as another one may have claimed it
        in between.
        """
        async with self._writing:
            return await self._flush()

    async def _flush(self) -> bool:
        for job_id, write in list(self._unwritten.items()):
            try:
                written = await asyncio.to_thread(write)
            except StorageFailed as error:
                if job_id not in self._told:
                    self._told.add(job_id)
                    say("job", f"its end is not recorded yet: {error}", id=job_id, level=40)
                return False
            if written is False:
                say("job", "has gone to another server; what was made here does not count", id=job_id, level=30)
            self._unwritten.pop(job_id, None)
            self._told.discard(job_id)
            self._changes.publish(job_id)
        return True

    def has(self, job_id: str) -> bool:
        """Whether the job has ended but its record is not written yet."""
        return job_id in self._unwritten
