"""The three parts of the application, as plain classes, which Ray Serve runs each in processes of its own.

    client ──HTTP──> Front ──record──> PostgreSQL <──count── Caller ──a call per waiting job──> Replica
                                           ^                                                      │
                                           └──────────────── claim, beat, complete ───────────────┘

A job is in the records alone. A call carries none: it only lets one replica claim the job that is next, and stays open
while that works, so that Serve starts as many replicas as there are jobs waiting or running, removes none that works,
and removes all after the keep-alive. Who dies loses nothing but its calls and its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.types import ASGIApp

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving import logs
from ltx_a2v.serving.cluster.scratch import own_folders
from ltx_a2v.serving.http.app import build_app
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.jobs.opening import open_records
from ltx_a2v.serving.jobs.retention import Sweeper
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.calls import Calls
from ltx_a2v.serving.work.scheduler import Scheduler
from ltx_a2v.serving.work.waiting import end
from ltx_a2v.settings.cluster import ClusterSettings

LOOK_SECONDS = 0.5
"""Between two looks of the caller at the queue."""


class Front:
    """Answers requests: the routes, page and security of `serve`, without a worker. `caller` is only kept alive."""

    def __init__(self, given: dict[str, Any], caller: object = None) -> None:
        del caller
        self._settings = ClusterSettings.received(given)
        logs.configure(self._settings.log_format)

    async def start(self) -> ASGIApp:
        self._folders = own_folders(self._settings)
        self._store, metrics = open_records(self._settings), Metrics()
        self._scheduler = Scheduler(self._settings, self._store, self._folders, metrics, devices=())
        service = Service(self._settings, self._store, self._folders, self._scheduler, metrics)
        await self._scheduler.start()
        courier = service.courier()
        self._sweeping = asyncio.create_task(Sweeper(self._store, self._folders, service.keep).run())
        self._telling = asyncio.create_task(courier.run()) if courier else None
        self._checker = service.checker
        return build_app(service)

    async def stop(self) -> None:
        self._sweeping.cancel()
        await self._scheduler.stop()
        await end(self._telling)
        await self._checker.stop()
        self._store.close()


class Replica:
    """Has one worker, and runs one job per call."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._settings = ClusterSettings.received(given)
        logs.configure(self._settings.log_format)
        self._calls = Calls()
        self._scheduler: Scheduler | None = None

    async def start(self) -> Scheduler:
        """Once, at the first call: on the loop that calls come on."""
        if self._scheduler is None:
            folders = own_folders(self._settings)
            self._store = open_records(self._settings)
            settings = self._settings.model_copy(update={"keep_alive": "-1", "cold_start": False})  # Serve's is counted
            self._scheduler = Scheduler(settings, self._store, folders, Metrics(), calls=self._calls)
            await self._scheduler.start()
        return self._scheduler

    async def work(self) -> AsyncIterator[str | None]:
        """Run the job that is next. Its id when it is claimed, or None where none was waiting; ends with the job."""
        scheduler = await self.start()
        job = await self._calls.claimed(scheduler.wake)
        yield None if job is None else job.id
        if job is None:
            return
        with scheduler.changes.watch(job.id) as changed:
            while scheduler.running_job(job.id) is not None:
                await changed.wait()
                changed.clear()

    async def stop(self) -> None:
        """A job that runs is put back; Serve has waited for it as long as it may drain."""
        if self._scheduler is not None:
            await self._scheduler.stop()
            self._store.close()


class Call(Protocol):
    """An open call of `Replica.work`: a response generator of a handle of Ray Serve."""

    def __aiter__(self) -> AsyncIterator[str | None]: ...
    def cancel(self) -> object: ...


class Work(Protocol):
    """Opens a call."""

    def __call__(self) -> Call: ...


class Caller:
    """Keeps as many calls open that have claimed nothing yet as there are jobs waiting. One is enough: without it no
    replica is called, and Serve starts it again."""

    def __init__(self, given: dict[str, Any], work: Work) -> None:
        self._settings = ClusterSettings.received(given)
        logs.configure(self._settings.log_format)
        self._work = work
        self._waiting: dict[asyncio.Task[None], Call] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = self._running or asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        store = open_records(self._settings)
        reachable = True
        while True:
            try:
                self.match(await asyncio.to_thread(store.count, "queued"))
                reachable = True
            except StorageFailed as error:
                if reachable:
                    say("caller", str(error), level=40)
                reachable = False
            await asyncio.sleep(LOOK_SECONDS)

    def match(self, queued: int) -> None:
        """Open or cancel calls until as many wait as jobs do, or as there may be replicas."""
        wanted = min(queued, self._settings.max_replicas)
        for task, call in list(self._waiting.items())[wanted:]:
            call.cancel()
            task.cancel()
        for _ in range(wanted - len(self._waiting)):
            call = self._work()
            task = asyncio.create_task(self._follow(call))
            self._waiting[task] = call
            task.add_done_callback(self._forget)

    async def _follow(self, call: Call) -> None:
        """Until its job ends. A replica that dies ends it too; its job comes back to the queue with its lease."""
        try:
            async for _job in call:
                if (task := asyncio.current_task()) is not None:
                    self._waiting.pop(task, None)
                    self._working.add(task)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            say("caller", f"a call ended: {type(error).__name__}", level=30)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LOOK_SECONDS)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)
        self._working.discard(task)
