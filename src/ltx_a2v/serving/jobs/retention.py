"""Removes the files of finished jobs by age and by total size; their records stay, marked as expired.

The cost of a pass does not depend on the number of records: it queries the table by time and size, in batches. It stops
between two jobs when the server stops. Sizes are measured once, after a job has ended, and stored in the table.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.settings.server import KeepOutputs
from ltx_a2v.settings.units import NEVER

SWEEP_SECONDS = 60.0
BATCH = 100
JUMP_SECONDS = 30.0
"""A wall clock that changes by more than this between two passes was set; drift is only milliseconds."""
HOLD_SECONDS = 3600.0
"""Nothing is removed for this long after such a jump, so that an operator can correct a wrong date first."""


def expires_at(job: Job, keep: KeepOutputs) -> float | None:
    """Unix time; None where a job does not expire by age."""
    if job.finished_at is None or keep.seconds == NEVER:
        return None
    return job.finished_at + keep.seconds


class Sweeper:
    """Applies `keep` every minute until it is stopped."""

    def __init__(
        self,
        store: JobStore,
        folders: Folders,
        keep: KeepOutputs,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._folders = folders
        self._keep = keep
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._held_until = 0.0
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Run until cancelled; a running pass then stops at its next job."""
        try:
            while True:
                await asyncio.to_thread(self._sweep_and_say)
                await asyncio.sleep(SWEEP_SECONDS)
        finally:
            self.stop()

    def stop(self) -> None:
        self._stopped.set()

    def sweep(self) -> list[str]:
        """Expire what is too old, then the oldest until the rest fits; returns the expired ids."""
        self._measure()
        if self._is_held():
            return []
        return [*self._expire_old(self._wall()), *self._expire_until_it_fits()]

    def _sweep_and_say(self) -> None:
        try:
            for job_id in self.sweep():
                say("expired", id=job_id)
        except (OSError, StorageFailed) as error:
            say("expired", f"could not remove outputs: {error}", level=30)

    def _measure(self) -> None:
        """Measure sizes outside of a transaction, since it takes time for many files."""
        while not self._stopped.is_set() and (ids := self._store.unmeasured(BATCH)):
            self._store.measured([(job_id, self._folders.size(job_id)) for job_id in ids])

    def _is_held(self) -> bool:
        offset = self._wall() - self._monotonic()
        jump, self._offset = offset - self._offset, offset
        if abs(jump) > JUMP_SECONDS:
            self._held_until = self._monotonic() + HOLD_SECONDS
            say("expired", f"the clock was set by {jump:+.0f} s: nothing is removed for an hour", level=30)
        return self._monotonic() < self._held_until

    def _expire_old(self, now: float) -> list[str]:
        expired: list[str] = []
        if self._keep.seconds == NEVER:
            return expired
        while not self._stopped.is_set() and (ids := self._store.finished_before(now - self._keep.seconds, BATCH)):
            self._remove(ids)
            expired += ids
        return expired

    def _expire_until_it_fits(self) -> list[str]:
        """The newest is always kept."""
        expired: list[str] = []
        bound = self._keep.total_bytes
        if bound is None:
            return expired
        excess = self._store.kept_bytes() - bound
        while excess > 0 and not self._stopped.is_set() and (oldest := self._store.oldest_with_files(BATCH)):
            ids = []
            for job_id, size in oldest:
                if excess <= 0:
                    break
                ids.append(job_id)
                excess -= size
            self._remove(ids)
            expired += ids
        return expired

    def _remove(self, ids: list[str]) -> None:
        self._store.expire(ids)  # before the files, so that no record refers to removed files
        for job_id in ids:
            if self._stopped.is_set():
                return  # the next start removes what expired jobs still have
            self._folders.remove(job_id)
