"""The interface of the work room for the routes: state, cancelling, loading and unloading, over all consumers.

There is one consumer with one worker. More would share the queue, each with its own worker and running job.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ltx_a2v.errors import Conflict, StorageFailed, Unavailable
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.progress import Estimates
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.jobs.storage import StorageProbe
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.calls import Calls
from ltx_a2v.serving.work.changes import Changes
from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.serving.work.consumer import Consumer, Shared
from ltx_a2v.serving.work.leases import Leases
from ltx_a2v.serving.work.outcomes import Outcomes
from ltx_a2v.serving.work.recovery import recover
from ltx_a2v.serving.work.running import Running
from ltx_a2v.serving.work.supervisor import StartWorker
from ltx_a2v.serving.work.waiting import Clock, SystemClock
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER

CANCEL_TRIES, CANCEL_PAUSE = 100, 0.02
"""For a job between its claim and its start, which takes milliseconds."""


class Scheduler:
    """`running`, `worker` and `expires_at` are those of the first consumer that has any."""

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        folders: Folders,
        metrics: Metrics,
        clock: Clock | None = None,
        start_worker: StartWorker = WorkerClient.start,
        workers: int = 1,
        calls: Calls | None = None,
    ) -> None:
        """Without workers, jobs are run elsewhere. With `calls`, they are claimed only when called."""
        self.changes = Changes()
        self.stopping = False
        self._store = store
        self._folders = folders
        self._metrics = metrics
        self._storage = StorageProbe(folders.outputs, folders.state, beyond=folders.problem)
        self._outcomes = Outcomes(self.changes)
        shared = Shared(
            settings,
            store,
            folders,
            metrics,
            clock or SystemClock(),
            start_worker,
            self.changes,
            self._outcomes,
            Estimates(),
            calls,
        )
        self._consumers = [Consumer(f"worker-{number}", shared) for number in range(1, workers + 1)]
        self._leases = Leases(store, folders, self.changes, self._consumers)

    async def start(self) -> None:
        if problem := await asyncio.to_thread(self.problem):
            say("server", problem, level=40)
        try:
            await asyncio.to_thread(recover, self._store, self._folders)
        except StorageFailed as error:  # each consumer settles its own when the disk can be written again
            say("job", f"what was interrupted is not settled yet: {error}", level=40)
        for consumer in self._consumers:
            consumer.start()
        self._leases.start()

    async def stop(self) -> None:
        """Requeue the running jobs durably, and end the workers."""
        self.stopping = True
        self.changes.publish_all()
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers))
        self._leases.stop()

    def wake(self) -> None:
        """Start the next turn of the consumers now: there is something to do."""
        for consumer in self._consumers:
            consumer.wake()

    # -- state, asked from any thread --------------------------------------------------------------------------------

    @property
    def running(self) -> Running | None:
        return next((running for consumer in self._consumers if (running := consumer.running) is not None), None)

    def running_job(self, job_id: str) -> Running | None:
        """The job on its worker; None where it is on none."""
        everything = (consumer.running for consumer in self._consumers)
        return next((running for running in everything if running is not None and running.job.id == job_id), None)

    @property
    def worker(self) -> WorkerClient | None:
        return next((worker for each in self._consumers if (worker := each.supervisor.worker) is not None), None)

    @property
    def worker_state(self) -> str:
        """none, starting, standby, broken, loading, busy or idle; elsewhere without workers here."""
        return self._consumers[0].state if self._consumers else "elsewhere"

    @property
    def is_loaded(self) -> bool:
        return any(consumer.supervisor.is_loaded for consumer in self._consumers)

    @property
    def proven(self) -> bool:
        """Whether a worker has opened the model; until then it is unknown whether that works."""
        return any(consumer.supervisor.proven for consumer in self._consumers)

    @property
    def expires_at(self) -> float:
        """Unix time when the loaded model is unloaded; `NEVER` without an end, and while a job runs."""
        return min((consumer.keep_alive.expires_at for consumer in self._consumers), default=NEVER)

    def problem(self) -> str | None:
        """Why no job can be stored now, as one sentence; tests the disk at most every few seconds."""
        return self._store.problem() or self._storage.problem()

    # -- what clients may ask for ------------------------------------------------------------------------------------

    async def cancel(self, job: Job) -> None:
        """Returns at once; the job's record says when it has stopped.

        Raises `Conflict` for a finished job, and `Unavailable` while its record cannot be written.
        """
        for _ in range(CANCEL_TRIES):
            if await self._cancelled_queued(job) or await self._cancelling_running(job):
                return
            if await self._cancelling_elsewhere(job):
                return
            current = await asyncio.to_thread(self._store.get, job.id)
            if current is None or current.state == "cancelled":
                return
            if current.is_final:
                raise Conflict(f"The job has {current.state} already, so it cannot be cancelled.")
            await asyncio.sleep(CANCEL_PAUSE)  # between its claim and its start, or its end and its record
        if self._outcomes.has(job.id):
            raise Unavailable(
                "The job has ended, but its record cannot be written yet: make room on the server's disk."
            )
        raise Unavailable("The job is neither queued nor running now; try again in a moment.")

    async def load(self, keep_alive: str | None) -> None:
        """Load the model now. Raises the worker's error, and `Conflict` without workers here."""
        if not self._consumers:
            raise Conflict("This server loads no model: its replicas do when jobs come.")
        await asyncio.gather(*(consumer.load(keep_alive) for consumer in self._consumers))

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What the worker plans for a request: `peak` bytes or None, and the `problem` where that does not fit now."""
        return await self._consumers[0].plan(request) if self._consumers else None

    async def unload(self) -> bool:
        """True when the memory is free; False where a job runs, after which it will be freed."""
        return all(await asyncio.gather(*(consumer.unload() for consumer in self._consumers)))

    async def _cancelled_queued(self, job: Job) -> bool:
        if not await asyncio.to_thread(self._store.cancel_if_queued, job.id):
            return False
        say("job", "cancelled while queued", id=job.id)
        self._metrics.finished("cancelled")
        self.changes.publish_all()
        return True

    async def _cancelling_running(self, job: Job) -> bool:
        if not any(consumer.cancel(job.id) for consumer in self._consumers):
            return False
        with contextlib.suppress(StorageFailed):  # stopping needs no room on the disk
            await asyncio.to_thread(self._store.request_cancel, job.id)
        return True

    async def _cancelling_elsewhere(self, job: Job) -> bool:
        """The server that runs it sees this at its next beat."""
        return self._store.is_shared and await asyncio.to_thread(self._store.request_cancel, job.id)
