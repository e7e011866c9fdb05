"""Which job runs next, how often it is tried, and how long it waits for device memory."""

from __future__ import annotations

from typing import Literal

from ltx_a2v.errors import A2VError, Cancelled, WorkerFailed
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.work.waiting import Clock

MAX_ATTEMPTS = 2
VRAM_RETRY_SECONDS = 1.0
STORAGE_SECONDS = 600.0
"""A job waits so long for an object store that does not answer, at its start and at its end."""

Verdict = Literal["cancel", "retry", "fail"]


def next_job(store: JobStore, owner: str) -> Job | None:
    """First come, first served. The job then belongs to `owner`."""
    return store.claim(owner)


def after_failure(job: Job, error: A2VError) -> Verdict:
    """A job whose worker died is retried once, as the job may not be the cause."""
    if isinstance(error, Cancelled):
        return "cancel"
    return "retry" if isinstance(error, WorkerFailed) and job.attempts < MAX_ATTEMPTS else "fail"


def after_interruption(job: Job, *, client_left: bool, most: int = MAX_ATTEMPTS) -> Verdict:
    """For a job that was in progress when its server or its consumer ended; `most` attempts are made."""
    if job.cancel_requested or (job.waited_for and client_left):
        return "cancel"
    return "retry" if job.attempts < most else "fail"


class Patience:
    """How long one attempt has waited: for others to give device memory back, for storage that does not answer."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._patience = seconds
        self._clock = clock
        self._end: float | None = None

    def raise_if_over(self, error: A2VError) -> None:
        """Raise the error when the time has passed since the first call."""
        now = self._clock.now()
        self._end = now + self._patience if self._end is None else self._end
        if now >= self._end:
            raise error
