"""The interface of the work room for the routes: state, cancelling, loading and unloading, over all consumers.

Each consumer has its own worker and running job; all share one queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from ltx_a2v.errors import Conflict, InvalidRequest, StorageFailed, Unavailable
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
from ltx_a2v.serving.work.memory import MachineMemory
from ltx_a2v.serving.work.outcomes import Outcomes
from ltx_a2v.serving.work.recovery import recover
from ltx_a2v.serving.work.running import Running
from ltx_a2v.serving.work.supervisor import StartWorker
from ltx_a2v.serving.work.waiting import Clock, SystemClock
from ltx_a2v.settings.devices import WorkerDevices
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER

ELSEWHERE = "elsewhere"
"""State, and device in metrics, of the workers of a server that has none: others run its jobs."""
STATES = ("broken", "none", "starting", "standby", "idle", "loading", "busy")
"""Of a worker. That of several is the last one of theirs."""
CANCEL_TRIES, CANCEL_PAUSE = 100, 0.02
"""For a job between its claim and its start, which takes milliseconds."""


class Scheduler:
    """`consumers` are those of the server's workers, in the order of its devices."""

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        folders: Folders,
        metrics: Metrics,
        clock: Clock | None = None,
        start_worker: StartWorker | None = None,
        devices: Sequence[WorkerDevices] | None = None,
        calls: Calls | None = None,
    ) -> None:
        """`devices` are those of the settings unless others are given; without any, jobs are run elsewhere. With
        `calls`, they are claimed only when called."""
        devices = settings.workers if devices is None else devices
        self.changes = Changes()
        self.stopping = False
        self._store = store
        self._folders = folders
        self._metrics = metrics
        self._storage = StorageProbe(folders.outputs, folders.state, beyond=folders.problem)
        self._outcomes = Outcomes(self.changes)
        self._memory = MachineMemory(networks=1 + len(settings.lora) if len(devices) > 1 else 0)
        shared = Shared(
            settings,
            store,
            folders,
            metrics,
            clock or SystemClock(),
            start_worker or partial(WorkerClient.start, memory=self._memory.files),
            self.changes,
            self._outcomes,
            Estimates(),
            self._memory,
            calls,
        )
        self.consumers = shared.consumers
        self.consumers += [Consumer(each, shared) for each in devices]
        metrics.expect(consumer.name for consumer in self.consumers)
        self._leases = Leases(store, folders, self.changes, self.consumers)

    async def start(self) -> None:
        if problem := await asyncio.to_thread(self.problem):
            say("server", problem, level=40)
        try:
            await asyncio.to_thread(recover, self._store, self._folders)
        except StorageFailed as error:  # each consumer settles its own when the disk can be written again
            say("job", f"what was interrupted is not settled yet: {error}", level=40)
        for consumer in self.consumers:
            consumer.start()
        self._leases.start()

    async def stop(self) -> None:
        """Requeue the running jobs durably, and end the workers."""
        self.stopping = True
        self.changes.publish_all()
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers))
        self._leases.stop()
        self._memory.close()

    def wake(self) -> None:
        """Start the next turn of the consumers now: there is something to do."""
        for consumer in self.consumers:
            consumer.wake()

    # -- state, asked from any thread --------------------------------------------------------------------------------

    @property
    def running(self) -> list[Running]:
        """The jobs on workers."""
        return [running for consumer in self.consumers if (running := consumer.running) is not None]

    def running_job(self, job_id: str) -> Running | None:
        """The job on its worker; None where it is on none."""
        return next((running for running in self.running if running.job.id == job_id), None)

    @property
    def worker_state(self) -> str:
        """none, starting, standby, broken, loading, busy or idle: of the worker that is furthest in `STATES`; elsewhere
        without workers here."""
        return max((consumer.state for consumer in self.consumers), key=STATES.index, default=ELSEWHERE)

    @property
    def is_loaded(self) -> bool:
        return any(consumer.is_loaded for consumer in self.consumers)

    @property
    def proven(self) -> bool:
        """Whether a worker has opened the model; until then it is unknown whether that works."""
        return any(consumer.supervisor.proven for consumer in self.consumers)

    @property
    def expires_at(self) -> float:
        """Unix time when the first loaded model is unloaded; `NEVER` without an end, and while a job runs."""
        return min((consumer.keep_alive.expires_at for consumer in self.consumers), default=NEVER)

    def jobs_before(self, queued: int) -> int:
        """How many jobs end before one that comes after `queued` others starts, if they end one after the other."""
        return max(0, queued + len(self.running) - max(1, len(self.consumers)) + 1)

    @property
    def next_free(self) -> Consumer | None:
        """That would take a job that came now; where none is free, the first one. None without workers here."""
        free = [consumer for consumer in self.consumers if consumer.is_free]
        return min(free or self.consumers[:1], key=lambda consumer: not consumer.is_loaded, default=None)

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

    async def load(self, keep_alive: str | None, device: str | None = None) -> None:
        """Load the model now, on all devices or on one. Raises the first worker's error when all have ended, and
        `Conflict` without workers here."""
        if not self.consumers:
            raise Conflict("This server loads no model: its replicas do when jobs come.")
        loads = (consumer.load(keep_alive) for consumer in self._on(device))
        for error in await asyncio.gather(*loads, return_exceptions=True):
            if error is not None:
                raise error

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What the worker plans for a request: `peak` bytes or None, and the `problem` where that does not fit now."""
        consumer = self.next_free
        return None if consumer is None else await consumer.plan(request)

    async def unload(self, device: str | None = None) -> bool:
        """True when the memory is free; False where a job runs, after which it will be freed."""
        return all(await asyncio.gather(*(consumer.unload() for consumer in self._on(device))))

    def _on(self, device: str | None) -> list[Consumer]:
        """All, or the one of these devices. Raises `InvalidRequest`."""
        names = [consumer.name for consumer in self.consumers]
        if device is not None and device not in names:
            raise InvalidRequest("device", device, f"is none of this server's; use {' or '.join(names)}")
        return [consumer for consumer in self.consumers if device in (None, consumer.name)]

    async def _cancelled_queued(self, job: Job) -> bool:
        if not await asyncio.to_thread(self._store.cancel_if_queued, job.id):
            return False
        say("job", "cancelled while queued", id=job.id)
        self._metrics.finished("", "cancelled")
        self.changes.publish_all()
        return True

    async def _cancelling_running(self, job: Job) -> bool:
        if not any(consumer.cancel(job.id) for consumer in self.consumers):
            return False
        with contextlib.suppress(StorageFailed):  # stopping needs no room on the disk
            await asyncio.to_thread(self._store.request_cancel, job.id)
        return True

    async def _cancelling_elsewhere(self, job: Job) -> bool:
        """The server that runs it sees this at its next beat."""
        return self._store.is_shared and await asyncio.to_thread(self._store.request_cancel, job.id)
