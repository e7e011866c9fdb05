"""One consumer: takes jobs in order, runs them on the worker, and decides when the worker may keep the GPU.

Residency over time: the keep-alive of the last job starts when it ends and the queue is empty. When it is over, the
worker process ends, so that the GPU holds nothing of ours, and a standby takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ltx_a2v.errors import A2VError, BudgetTooSmall, Cancelled, Conflict, Unavailable, WorkerFailed
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.progress import Estimates, Progress
from ltx_a2v.serving.jobs.records import MAX_ATTEMPTS, Job, JobStore
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.client import Message, WorkerClient, error_from, taints_worker
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER, parse_duration

VRAM_RETRY_SECONDS = 1.0
RESTART_PAUSES = (0.0, 0.5, 2.0, 10.0, 30.0)
"""Before the n-th start in a row of a worker that dies before it is ready."""

StartWorker = Callable[[ServerSettings, Callable[[], None]], Awaitable[WorkerClient]]


class Clock(Protocol):
    def now(self) -> float: ...
    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set or the time is over."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), None if seconds == NEVER else seconds)


@dataclass
class Running:
    """The job on the worker, beyond its record."""

    job: Job
    progress: Progress
    step_began: float = 0.0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Changes:
    """Wakes those who watch a job."""

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
        for changed in self._watchers.get(job_id, ()):
            changed.set()

    def publish_all(self) -> None:
        for job_id in list(self._watchers):
            self.publish(job_id)


class Scheduler:
    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        folders: Folders,
        metrics: Metrics,
        clock: Clock | None = None,
        start_worker: StartWorker = WorkerClient.start,
    ) -> None:
        self.changes = Changes()
        self.running: Running | None = None
        self.worker: WorkerClient | None = None
        self.stopping = False
        self.proven = False
        """A worker has opened the model once; until then nobody knows whether it can be."""
        self.expires_at = NEVER
        """When the loaded model is unloaded, on the clock; `NEVER` also while a job runs."""
        self._settings = settings
        self._store = store
        self._folders = folders
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._start_worker = start_worker
        self._keep_alive = settings.keep_alive_seconds
        self._estimates = Estimates()
        self._wake = asyncio.Event()
        self._load_wanted: asyncio.Future[None] | None = None
        self._unload_wanted = False
        self._early_deaths = 0

    # -- from outside ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self._recover)
        self._consumer = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """The running job goes back to the queue, durably, and the worker ends."""
        self.stopping = True
        self.changes.publish_all()
        self._consumer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._consumer
        if self._load_wanted is not None and not self._load_wanted.done():
            self._load_wanted.set_exception(Unavailable("The server is stopping."))
        if self.worker is not None:
            await self.worker.stop()

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    @property
    def is_loaded(self) -> bool:
        return self.worker is not None and self.worker.loaded

    @property
    def worker_state(self) -> str:
        """none, starting, standby, broken, loading, busy or idle."""
        if self.worker is None or self.worker.dead:
            return "none"
        if not self.worker.ready.is_set():
            return "starting"
        if self.running is not None:
            return "loading" if self.running.progress.phase == "load" else "busy"
        if self.worker.loaded:
            return "idle"
        return "broken" if self.worker.problem else "standby"

    async def cancel(self, job: Job) -> None:
        """Returns at once; the job's record says when it has stopped. Raises `Conflict` for a finished job."""
        if await asyncio.to_thread(self._store.cancel_if_queued, job.id):
            say("job", "cancelled while queued", id=job.id)
            self._metrics.finished("cancelled")
            self.changes.publish_all()
            return
        running = self.running
        if running is not None and running.job.id == job.id:
            await asyncio.to_thread(self._store.request_cancel, job.id)
            self._cancel_running(running)
            return
        current = await asyncio.to_thread(self._store.get, job.id)
        if current is not None and current.state in ("completed", "failed"):
            raise Conflict(f"The job has {current.state} already, so it cannot be cancelled.")
        if current is not None and not current.is_final:  # between its claim and its start
            await asyncio.sleep(0.01)
            await self.cancel(current)

    async def load(self, keep_alive: str | None) -> None:
        """Raises what the worker failed with."""
        if self._load_wanted is None or self._load_wanted.done():
            self._load_wanted = asyncio.get_running_loop().create_future()
        self._unload_wanted = False
        self.wake()
        await asyncio.shield(self._load_wanted)
        if keep_alive is None and self._settings.keep_alive_seconds == 0:  # who loads by hand wants it loaded
            keep_alive = ServerSettings.model_fields["keep_alive"].default
        self._keep_model(keep_alive)
        self.wake()

    async def unload(self) -> bool:
        """Whether the memory is free now; False where a job runs, which is unloaded after."""
        self._unload_wanted = True
        self.wake()
        while self.running is None and self._unload_wanted:
            await asyncio.sleep(0.02)
        return not self._unload_wanted

    # -- the consumer ------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except Exception as error:  # one turn must not end the server
                say("server", f"unexpected {type(error).__name__}: {error}", level=40)
                await asyncio.sleep(1)

    async def _turn(self) -> None:
        if self.worker is not None and self.worker.dead:
            await self._retire_worker()
        if self._load_wanted is not None and not self._load_wanted.done():
            await self._load_now(self._load_wanted)
        elif (job := await asyncio.to_thread(self._store.claim)) is not None:
            await self._work(job)
        elif self._unload_wanted or self._clock.now() >= self.expires_at:
            await self._unload_now()
        else:
            if self._settings.standby and self.worker is None:
                await self._fresh_worker()
            await self._clock.wait(self._wake, max(0.0, self.expires_at - self._clock.now()))

    async def _work(self, job: Job) -> None:
        loads_first = not self.is_loaded and self._seconds_kept(job.keep_alive) > 0
        expected = self._estimates.for_job(job.request["num_inference_steps"], loads_first)
        self.running = Running(job, Progress(expected, self._clock.now(), self._estimates.measured))
        self.expires_at = NEVER
        self.changes.publish_all()  # queue positions moved
        say("job", "started", id=job.id, attempt=job.attempts)
        try:
            await _to_the_end(self._finish(job, await self._attempt(self.running)))
        except asyncio.CancelledError:
            self._put_back(job)
            raise
        except A2VError as error:
            await self._settle(job, error)
        except Exception as error:  # a full disk, no more processes
            await self._settle(job, A2VError(f"{type(error).__name__}: {error}"))
        finally:
            self.running = None
            self._keep_model(job.keep_alive)
            self.changes.publish_all()

    async def _attempt(self, running: Running) -> dict[str, Any]:
        """The result. Waits for device memory as long as the settings allow."""
        deadline: float | None = None
        while True:
            try:
                return await self._run_on_worker(running)
            except BudgetTooSmall as error:
                deadline = deadline or self._clock.now() + parse_duration(self._settings.vram_wait)
                if self._clock.now() >= deadline:
                    raise
                say("vram", f"waiting: {error}", id=running.job.id)
                running.progress.phase = "wait_for_memory"
                self.changes.publish(running.job.id)
                await self._clock.wait(running.cancelled, VRAM_RETRY_SECONDS)
                running.progress.started_at = self._clock.now()

    async def _run_on_worker(self, running: Running) -> dict[str, Any]:
        job = running.job
        worker = await self._ready_worker(running.cancelled)
        keep = self._seconds_kept(job.keep_alive) > 0
        if not worker.loaded:
            self._metrics.cold_starts.inc()
        folder = await asyncio.to_thread(self._folders.new_work, job.id, job.attempts)
        if running.cancelled.is_set():
            raise Cancelled("The job was cancelled.")
        worker.send("run", job=job.id, request=job.request, folder=str(folder.resolve()), keep=keep)
        while True:
            message = await self._receive(worker, running)
            match message["say"]:
                case "event":
                    self._observe(running, worker, message)
                case "done":
                    result: dict[str, Any] = message["result"]
                    return result
                case "failed":
                    raise error_from(message)
                case "cancelled":
                    raise Cancelled("The job was cancelled.")

    async def _receive(self, worker: WorkerClient, running: Running) -> Message:
        try:
            return await worker.receive()
        except WorkerFailed:
            if running.cancelled.is_set():  # it was killed for not stopping in time
                raise Cancelled("The job was cancelled.") from None
            raise

    async def _finish(self, job: Job, result: dict[str, Any]) -> None:
        """Files first, record second: a crash between the two is repaired at the next start."""
        await asyncio.to_thread(self._folders.commit, job.id, job.attempts)
        result["output_path"] = str(self._folders.finished(job.id) / "video.mp4")
        await asyncio.to_thread(self._store.complete, job.id, result)
        self._estimates.learn(result["phases"], job.request["num_inference_steps"])
        self._metrics.completed(result)
        say("job", "completed", id=job.id, elapsed_s=result["elapsed_seconds"], peak_gib=result["peak_vram_gib"])

    async def _settle(self, job: Job, error: A2VError) -> None:
        """Record why a job has no result, and part with a worker that cannot be trusted any more."""
        worker = self.worker
        if worker is not None and (worker.dead or taints_worker(error)):
            await self._retire_worker()
        await asyncio.to_thread(self._folders.remove_work, job.id, job.attempts)
        if isinstance(error, Cancelled):
            await asyncio.to_thread(self._store.cancel, job.id)
            self._metrics.finished("cancelled")
            say("job", "cancelled", id=job.id)
        elif isinstance(error, WorkerFailed) and job.attempts < MAX_ATTEMPTS:
            await asyncio.to_thread(self._store.requeue, job.id, forgive=False)
            say("job", f"will be tried again: {error}", id=job.id, level=30)
        else:
            await asyncio.to_thread(self._store.fail, job.id, error.code, str(error), error.http_status)
            self._metrics.failed(error.code)
            say("job", f"failed: {error}", id=job.id, code=error.code, level=30)

    def _put_back(self, job: Job) -> None:
        """The server is stopping, which is not the job's fault."""
        if self.worker is not None:
            self.worker.kill()
        if self.running is not None and self.running.cancelled.is_set():
            self._store.cancel(job.id)
        self._store.requeue(job.id, forgive=True)  # not where it has ended
        say("job", "stopped with the server", id=job.id)

    # -- the worker --------------------------------------------------------------------------------------------------

    async def _ready_worker(self, cancelled: asyncio.Event | None = None) -> WorkerClient:
        """A worker whose imports are done; raises `Cancelled` or `WorkerFailed`."""
        worker = self.worker
        if worker is None or worker.dead:
            worker = await self._fresh_worker()
        await _first_of(worker.ready, cancelled)
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("The job was cancelled.")
        if worker.dead:
            self._early_deaths += 1
            await worker.receive()  # raises
        self._early_deaths = 0
        return worker

    async def _announce(self, worker: WorkerClient) -> None:
        await worker.ready.wait()
        if worker.problem:
            say("worker", f"the model cannot be opened: {worker.problem}", level=40)
        elif not worker.dead:
            self.proven = True
            say("worker", "stands by", pid=worker.pid, device=worker.device)

    async def _fresh_worker(self) -> WorkerClient:
        await self._retire_worker()
        await asyncio.sleep(RESTART_PAUSES[min(self._early_deaths, len(RESTART_PAUSES) - 1)])
        await _to_the_end(self._start_new())
        assert self.worker is not None
        return self.worker

    async def _start_new(self) -> None:
        self.worker = await self._start_worker(self._settings, self.wake)
        self._metrics.worker_starts.inc()
        self._announcement = asyncio.create_task(self._announce(self.worker))

    async def _retire_worker(self) -> None:
        worker, self.worker = self.worker, None
        self.expires_at = NEVER
        if worker is None:
            return
        if worker.dead and not worker.used:
            self._early_deaths += 1
            say("worker", "died while it was not in use", level=30)
        await _to_the_end(worker.stop())

    async def _load_now(self, wanted: asyncio.Future[None]) -> None:
        try:
            worker = await self._ready_worker()
            worker.send("load")
            while (message := await worker.receive())["say"] not in ("loaded", "load_failed"):
                self._observe(None, worker, message)
            if message["say"] == "load_failed":
                raise error_from(message)
            worker.loaded = True
        except A2VError as error:
            await self._retire_worker()
            wanted.set_exception(error)
        else:
            wanted.set_result(None)

    async def _unload_now(self) -> None:
        if self.worker is not None and self.worker.used:
            await self._retire_worker()
            say("unload", "the worker has ended; the GPU holds nothing of ours")
        self.expires_at = NEVER
        self._unload_wanted = False

    def _keep_model(self, keep_alive: str | None) -> None:
        """From now on. A worker that worked and holds no model has no reason to stay."""
        seconds = self._seconds_kept(keep_alive) if self.is_loaded else 0.0
        self.expires_at = self._clock.now() + seconds if self.worker is not None and self.worker.used else NEVER

    def _seconds_kept(self, keep_alive: str | None) -> float:
        return self._settings.keep_alive_seconds if keep_alive is None else parse_duration(keep_alive)

    def _cancel_running(self, running: Running) -> None:
        running.cancelled.set()
        worker = self.worker
        if worker is None:
            return
        worker.send("cancel", job=running.job.id)
        grace = parse_duration(self._settings.cancel_grace)
        asyncio.get_running_loop().call_later(grace, self._kill_if_still, running, worker)

    def _kill_if_still(self, running: Running, worker: WorkerClient) -> None:
        if self.running is running and worker.used:
            say("worker", "killed: it did not stop in time", id=running.job.id, level=30)
            worker.kill()

    # -- what the worker says ----------------------------------------------------------------------------------------

    def _observe(self, running: Running | None, worker: WorkerClient, event: Message) -> None:
        match event["event"]:
            case "PhaseStarted" if running:
                running.progress.start_phase(event["phase"], event["steps"])
                running.step_began = time.monotonic()
            case "StepFinished" if running:
                running.progress.finish_step(event["step"], event["steps"])
                now = time.monotonic()
                self._metrics.step_seconds.labels(event["phase"]).observe(now - running.step_began)
                running.step_began = now
            case "PhaseFinished":
                self._phase_finished(running, worker, event)
            case "Notice":
                say("notice", event["message"])
        if running:
            self.changes.publish(running.job.id)

    def _phase_finished(self, running: Running | None, worker: WorkerClient, event: Message) -> None:
        phase = event["phase"]
        if phase == "load":
            worker.loaded = True
            self._metrics.loads.inc()
            self._estimates.learn_load(event["seconds"])
            say("load", self._settings.model_id, seconds=event["seconds"])
        if running:
            running.progress.finish_phase(phase)
        self._metrics.phase_seconds.labels(phase).observe(event["seconds"])
        say("timing", f"{phase}={event['seconds']:.2f}s")
        if event["reserved_gib"]:
            allocated, reserved = f"{event['allocated_gib']:.2f}GiB", f"{event['reserved_gib']:.2f}GiB"
            say("cuda", f"after {phase}:", allocated=allocated, reserved=reserved)

    # -- at the start ------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Settle what the last server left in progress."""
        for job in self._store.in_state("in_progress"):
            if self._commit_survived(job):
                say("job", "had finished before the server ended", id=job.id)
            elif job.cancel_requested or job.waited_for:
                self._store.cancel(job.id)
            elif job.attempts >= MAX_ATTEMPTS:
                message = f"The server or its worker ended during each of the {job.attempts} attempts at this job."
                self._store.fail(job.id, "interrupted", message, WorkerFailed.http_status)
            else:
                self._store.requeue(job.id, forgive=False)
                say("job", "was interrupted and will be tried again", id=job.id)
        for job in self._store.in_state("queued"):
            if job.waited_for:  # its client is gone
                self._store.cancel(job.id)
        self._folders.remove_leftovers(self._store.ids())

    def _commit_survived(self, job: Job) -> bool:
        result = self._folders.committed_result(job.id)
        if result is None:
            return False
        result["output_path"] = str(self._folders.finished(job.id) / "video.mp4")
        self._store.complete(job.id, result)
        return True


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it, and where the awaiting is cancelled, first let it finish."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _first_of(first: asyncio.Event, second: asyncio.Event | None) -> None:
    if second is None:
        await first.wait()
        return
    waits = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
