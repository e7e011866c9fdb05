"""The life of one worker process: started, ready, watched, retired, and started again after a growing pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ltx_a2v.errors import Cancelled, WorkerFailed
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.client import WorkerClient, limit
from ltx_a2v.serving.work.waiting import first_of, to_the_end, wait_up_to
from ltx_a2v.settings.server import ServerSettings

RESTART_PAUSES = (0.0, 0.5, 2.0, 10.0, 30.0)
"""Seconds before the n-th consecutive start of a worker that dies before it is ready."""
LOOKS_PER_LIMIT = 10
MAX_LOOK_SECONDS = 5.0
FIRST_WORD_SECONDS = 60.0
"""Minimum limit for the first heartbeat: Python and its imports may come from a slow disk."""
LATE_SECONDS = 1.0

StartWorker = Callable[[ServerSettings, Callable[[], None]], Awaitable[WorkerClient]]


class Supervisor:
    """Has at most one worker, of that device. `on_change` is called when it is ready, and when it dies."""

    def __init__(
        self,
        device: str,
        settings: ServerSettings,
        metrics: Metrics,
        start_worker: StartWorker,
        on_change: Callable[[], None],
    ) -> None:
        self.worker: WorkerClient | None = None
        self.proven = False
        """Whether a worker has opened the model; until then it is unknown whether that works."""
        self._device = device
        self._settings = settings
        self._metrics = metrics
        self._start_worker = start_worker
        self._on_change = on_change
        self._early_deaths = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_loaded(self) -> bool:
        worker = self.worker  # once: routes ask from other threads
        return worker is not None and worker.loaded

    @property
    def is_ready(self) -> bool:
        """There is a worker that has opened the model, loaded or not."""
        return self.state in ("standby", "loaded")

    @property
    def is_sick(self) -> bool:
        """The worker cannot open the model, or the last one died before it was ready."""
        return self.state == "broken" or (self._early_deaths > 0 and not self.is_ready)

    @property
    def has_died(self) -> bool:
        """There is a dead worker to retire."""
        return self.worker is not None and self.worker.dead

    @property
    def state(self) -> str:
        """none, starting, standby, broken or loaded."""
        worker = self.worker  # once: routes ask from other threads
        if worker is None or worker.dead:
            return "none"
        if not worker.ready.is_set():
            return "starting"
        if worker.loaded:
            return "loaded"
        return "broken" if worker.problem else "standby"

    async def ready(self, cancelled: asyncio.Event | None = None) -> WorkerClient:
        """A worker whose imports are done. Raises `Cancelled` and `WorkerFailed`."""
        if self.worker is None or self.worker.dead:
            await self._start(cancelled)
        worker = self.worker
        if worker is not None:
            await first_of(worker.ready, cancelled)
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("The job was cancelled.")
        assert worker is not None
        if worker.dead:
            self._early_deaths += 1
            await worker.receive()  # raises
        self._early_deaths = 0
        return worker

    async def stand_by(self, interrupted: asyncio.Event) -> None:
        """Start a standby worker where there is none, unless `interrupted` is set meanwhile."""
        if self.worker is not None:
            return
        try:
            await self._start(interrupted)
        except WorkerFailed as error:
            say("worker", str(error), level=30)

    async def retire(self) -> None:
        """End the worker, which frees all its device memory."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        if worker.dead and not worker.used:
            self._early_deaths += 1
            say("worker", "died while it was not in use", device=self._device, level=30)
        await to_the_end(worker.stop())

    async def _start(self, interrupted: asyncio.Event | None) -> None:
        await self.retire()
        pause = RESTART_PAUSES[min(self._early_deaths, len(RESTART_PAUSES) - 1)]
        await wait_up_to(interrupted or asyncio.Event(), pause)
        if interrupted is None or not interrupted.is_set():
            await to_the_end(self._start_now())

    async def _start_now(self) -> None:
        try:
            worker = await self._start_worker(self._settings, self._on_change)
        except OSError as error:  # no more processes, descriptors or memory
            self._early_deaths += 1
            raise WorkerFailed(f"The worker process cannot be started: {error.strerror or error}.") from error
        self.worker = worker
        self._metrics.worker_starts.labels(self._device).inc()
        self._in_background(self._announce(worker))
        self._in_background(self._watch(worker))

    async def _announce(self, worker: WorkerClient) -> None:
        await worker.ready.wait()
        if worker.problem:
            say("worker", f"the model cannot be opened: {worker.problem}", device=self._device, level=40)
        elif not worker.dead:
            self.proven = True
            say("worker", "stands by", pid=worker.pid, device=self._device)
        self._on_change()

    async def _watch(self, worker: WorkerClient) -> None:
        """Kill a worker that is stopped or hangs. Its job then fails and is retried."""
        silence, step = limit(self._settings.worker_silence), limit(self._settings.step_timeout)
        pause = min(silence / LOOKS_PER_LIMIT, step / LOOKS_PER_LIMIT, MAX_LOOK_SECONDS)
        while not worker.dead:
            slept_at = time.monotonic()
            await asyncio.sleep(pause)
            now = time.monotonic()
            if now - slept_at > pause + LATE_SECONDS:  # this process was suspended, not the worker
                worker.heard_at = worker.moved_at = now
            elif now - worker.heard_at > (silence if worker.has_spoken else max(silence, FIRST_WORD_SECONDS)):
                self._kill(worker, f"it gave no sign of life for {self._settings.worker_silence}")
            elif worker.working and now - worker.moved_at > step:
                self._kill(worker, f"no step ended within {self._settings.step_timeout}")

    def _kill(self, worker: WorkerClient, reason: str) -> None:
        if not worker.dead:
            say("worker", f"killed: {reason}", pid=worker.pid, level=40)
            worker.kill(reason)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
