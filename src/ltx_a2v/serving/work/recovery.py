"""Settles interrupted jobs: recorded as in progress but not running, after a crash of the server or an error in a turn.

A job whose files were committed is completed, even if its record was not written. Any other is retried once.
"""

from __future__ import annotations

from ltx_a2v.errors import WorkerFailed
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.work.queue_policy import MAX_ATTEMPTS, after_interruption


def recover(store: JobStore, folders: Folders) -> None:
    """At the start of a server, when no job runs, no client waits, and no file is being written.

    Where servers share the records, jobs are another's or will be overdue, which `Leases` settles.
    """
    if store.is_shared:
        folders.remove_leftovers(store.ids(), store.expired_ids(), shared=True)
        return
    for job in store.in_state("in_progress"):
        settle_interrupted(store, folders, job, client_left=True)
    for job in store.in_state("queued"):
        if job.waited_for:
            store.cancel(job.id)
    folders.remove_leftovers(store.ids(), store.expired_ids())


def settle_interrupted(
    store: JobStore, folders: Folders, job: Job, *, client_left: bool, most: int = MAX_ATTEMPTS
) -> None:
    """`most` attempts are made at it. Nothing changes where the job has a new lease already."""
    if _completed_from_files(store, folders, job):
        say("job", "had finished before the server ended", id=job.id)
        return
    match after_interruption(job, client_left=client_left, most=most):
        case "cancel":
            store.cancel(job.id, job.lease)
        case "retry":
            store.requeue(job.id, forgive=False, lease=job.lease)
            say("job", "was interrupted and will be tried again", id=job.id)
        case "fail":
            message = f"The server or its worker ended during each of the {job.attempts} attempts at this job."
            store.fail(job.id, "interrupted", message, WorkerFailed.http_status, lease=job.lease)


def _completed_from_files(store: JobStore, folders: Folders, job: Job) -> bool:
    result = folders.committed_result(job.id, job.attempts)
    if result is None:
        return False
    result["output_path"] = folders.location(job.id, job.attempts)
    store.complete(job.id, result, job.lease)
    return True
