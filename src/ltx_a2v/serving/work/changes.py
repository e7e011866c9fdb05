"""Notifies watchers of job changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

ANY = ""
"""Watched in place of a job's id, for the changes of all jobs."""


class Changes:
    """The watchers of each job. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change; the watcher clears it."""
        changed = asyncio.Event()
        self._watchers[job_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def publish(self, job_id: str) -> None:
        for watched in (job_id, ANY):
            for changed in self._watchers.get(watched, ()):
                changed.set()

    def publish_all(self) -> None:
        for job_id in list(self._watchers):
            self.publish(job_id)
