"""How jobs ended, kept in memory until the disk has taken it: a full disk must not leave a job in progress for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.work.changes import Changes

RETRY_SECONDS = 1.0


class Outcomes:
    """Writes to the job store that may have to be tried again; each is harmless when done twice."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._unwritten: dict[str, Callable[[], None]] = {}
        self._told: set[str] = set()

    async def record(self, job_id: str, write: Callable[[], None]) -> None:
        """Now, or at a later `flush`."""
        self._unwritten[job_id] = write
        await self.flush()

    async def flush(self) -> bool:
        """Whether everything is written."""
        for job_id, write in list(self._unwritten.items()):
            try:
                await asyncio.to_thread(write)
            except StorageFailed as error:
                if job_id not in self._told:
                    self._told.add(job_id)
                    say("job", f"its end is not recorded yet: {error}", id=job_id, level=40)
                return False
            self._unwritten.pop(job_id, None)
            self._told.discard(job_id)
            self._changes.publish(job_id)
        return True

    def has(self, job_id: str) -> bool:
        """Whether the job has ended, though its record does not say so yet."""
        return job_id in self._unwritten
