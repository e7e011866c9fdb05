"""Removes finished jobs' files after their time or when they take too much room; the records stay, marked expired."""

from __future__ import annotations

import asyncio
import time

from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.settings.server import KeepOutputs
from ltx_a2v.settings.units import NEVER

SWEEP_SECONDS = 60.0


def expires_at(job: Job, keep: KeepOutputs) -> float | None:
    """Unix time; None where a job has no end of its own."""
    if job.finished_at is None or keep.seconds == NEVER:
        return None
    return job.finished_at + keep.seconds


def sweep(store: JobStore, folders: Folders, keep: KeepOutputs, now: float) -> list[str]:
    """Expire what is too old, then the oldest until the rest fits; returns the expired ids."""
    kept = [job for job in store.in_state("completed", "failed", "cancelled") if not job.expired]
    too_old = [job for job in kept if (end := expires_at(job, keep)) is not None and end <= now]
    fresh = [job for job in kept if job not in too_old]
    expired = too_old + _beyond_size(fresh, folders, keep.total_bytes)
    for job in expired:
        store.expire(job.id)  # first, so that no one is promised a file that is gone
        folders.remove(job.id)
    return [job.id for job in expired]


def _beyond_size(oldest_first: list[Job], folders: Folders, bound: int | None) -> list[Job]:
    """The oldest jobs without which the others fit; the newest is always kept."""
    if bound is None:
        return []
    room, beyond = bound, []
    for job in reversed(oldest_first):
        room -= folders.size(job.id)
        if room < 0 and job is not oldest_first[-1]:
            beyond.append(job)
    return beyond


async def sweep_for_ever(store: JobStore, folders: Folders, keep: KeepOutputs) -> None:
    while True:
        try:
            for job_id in await asyncio.to_thread(sweep, store, folders, keep, time.time()):
                say("expired", id=job_id)
        except OSError as error:
            say("expired", f"could not remove outputs: {error}", level=30)
        await asyncio.sleep(SWEEP_SECONDS)
