"""One consumer owns one worker: it takes jobs in order, runs them there, and decides how long the worker keeps the GPU.

Each turn does the first of these that applies: retire a dead worker, load or unload on request, write outcomes that the
disk refused, settle interrupted jobs, run the next job, answer what a request would take, unload after the keep-alive,
wait with a standby worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ltx_a2v.errors import A2VError, BudgetTooSmall, Cancelled, StorageFailed, Unavailable, WorkerFailed, from_json
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.progress import Estimates, Progress, stage_1_passes
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.jobs.storage import UNREACHABLE, storage_failed
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.calls import Calls
from ltx_a2v.serving.work.changes import Changes
from ltx_a2v.serving.work.client import Message, WorkerClient
from ltx_a2v.serving.work.keep_alive import KeepAlive
from ltx_a2v.serving.work.memory import MachineMemory
from ltx_a2v.serving.work.outcomes import RETRY_SECONDS, Outcomes
from ltx_a2v.serving.work.queue_policy import STORAGE_SECONDS, VRAM_RETRY_SECONDS, Patience, after_failure, next_job
from ltx_a2v.serving.work.recovery import settle_interrupted
from ltx_a2v.serving.work.running import Observer, Running
from ltx_a2v.serving.work.sharing import going_first, others_well
from ltx_a2v.serving.work.supervisor import StartWorker, Supervisor
from ltx_a2v.serving.work.waiting import Clock, first_of, to_the_end
from ltx_a2v.settings.devices import WorkerDevices
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER, parse_duration

T = TypeVar("T")

MAX_PLANS = 8
"""Plans that may be asked for at once."""
PLAN_SECONDS = 10.0


class _RoomElsewhere(Exception):
    """The device has no room for the job now, and another worker is free."""


@dataclass(frozen=True)
class Shared:
    """What all consumers of a server share."""

    settings: ServerSettings
    store: JobStore
    folders: Folders
    metrics: Metrics
    clock: Clock
    start_worker: StartWorker
    changes: Changes
    outcomes: Outcomes
    estimates: Estimates
    memory: MachineMemory
    calls: Calls | None = None
    """Where given, a consumer claims only when it is called."""
    without_room: dict[str, set[str]] = field(default_factory=dict)
    """The workers that had no room for a job, by its id, while it is tried."""
    consumers: list[Consumer] = field(default_factory=list)
    """All of the server, in the order of its devices."""


class Consumer:
    """Runs jobs on one worker. `name`, that of its devices, is the owner in the records of the jobs that it claims."""

    def __init__(self, devices: WorkerDevices, shared: Shared) -> None:
        self.devices = devices
        self.name = devices.name
        self.running: Running | None = None
        self.keep_alive = KeepAlive(shared.settings, shared.clock)
        self.supervisor = Supervisor(
            self.name, shared.settings.on(devices), shared.metrics, shared.start_worker, self.wake
        )
        self._shared = shared
        self._observer = Observer(self.name, shared.settings.model_id, shared.metrics, shared.estimates, shared.changes)
        self._wake = asyncio.Event()
        self._load_wanted: asyncio.Future[None] | None = None
        self._unload_wanted = False
        self._plans: list[tuple[Message, asyncio.Future[Message | None]]] = []
        """Requests whose memory is asked for, and where the answer goes."""
        self._trouble: str | None = None
        self._steps_back_until = -NEVER
        """By the clock: there was no room for a job here, and other workers go first."""
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- from outside ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Requeue the running job durably, and end the worker."""
        self._stopping.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._load_wanted is not None and not self._load_wanted.done():
            self._load_wanted.set_exception(Unavailable("The server is stopping."))
        await self.supervisor.retire()

    def wake(self) -> None:
        """Start the next turn now: there is something to do."""
        self._wake.set()

    @property
    def is_free(self) -> bool:
        """It would take a job now, or when its worker has started."""
        loads = self._load_wanted is not None and not self._load_wanted.done()
        return self.running is None and not loads and not self.is_sick and not self._steps_back

    @property
    def _steps_back(self) -> bool:
        return self._shared.clock.now() < self._steps_back_until

    @property
    def is_ready(self) -> bool:
        """Its worker has opened the model, loaded or not."""
        return self.supervisor.is_ready

    @property
    def is_loaded(self) -> bool:
        return self.supervisor.is_loaded

    @property
    def is_sick(self) -> bool:
        """Its worker cannot open the model, or dies at its start."""
        return self.supervisor.is_sick

    @property
    def state(self) -> str:
        """none, starting, standby, broken, loading, busy or idle."""
        running, state = self.running, self.supervisor.state
        if state in ("none", "starting"):
            return state
        if running is not None:
            return "loading" if running.progress.phase == "load" else "busy"
        return "idle" if state == "loaded" else state

    async def load(self, keep_alive: str | None) -> None:
        """Load the model now. Raises the worker's error."""
        if self._load_wanted is None or self._load_wanted.done():
            self._load_wanted = asyncio.get_running_loop().create_future()
        self._unload_wanted = False
        self.wake()
        await asyncio.shield(self._load_wanted)
        self.keep_alive.start(self.supervisor.worker, self.keep_alive.seconds_by_hand(keep_alive))
        self.wake()

    async def unload(self) -> bool:
        """True when the memory is free; False where a job runs, after which it will be freed."""
        self._unload_wanted = True
        self.wake()
        while self.running is None and self._unload_wanted:
            await asyncio.sleep(0.02)
        return not self._unload_wanted

    async def plan(self, request: Message) -> Message | None:
        """The worker's plan for a request ("planned" in its protocol); None where it is not free to plan in time."""
        if self.running is not None or not self.supervisor.is_ready or len(self._plans) >= MAX_PLANS:
            return None
        answer: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._plans.append((request, answer))
        self.wake()
        try:
            return await asyncio.wait_for(answer, PLAN_SECONDS)
        except TimeoutError:
            return None

    def cancel(self, job_id: str) -> bool:
        """Whether the job runs here. It then stops at its next step; after the grace period its worker is killed."""
        running, worker = self.running, self.supervisor.worker
        if running is None or running.job.id != job_id:
            return False
        if worker is not None and not running.cancelled.is_set():
            worker.send("cancel", job=job_id)
            grace = parse_duration(self._shared.settings.cancel_grace)
            asyncio.get_running_loop().call_later(grace, self._kill_if_still, running, worker)
        running.cancelled.set()
        return True

    def give_up(self, job_id: str) -> None:
        """Stop a job that another server has now; nothing about it is recorded here."""
        running, worker = self.running, self.supervisor.worker
        if running is not None and running.job.id == job_id:
            running.lost = True
            running.cancelled.set()
            if worker is not None and worker.used:
                worker.kill("another server has its job")

    def _kill_if_still(self, running: Running, worker: WorkerClient) -> None:
        if self.running is running and worker.used:
            say("worker", "killed: it did not stop in time", id=running.job.id, level=30)
            worker.kill("it did not stop in time")

    # -- one turn ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._turn()
                self._trouble = None
            except StorageFailed as error:  # logged once, retried until the disk can be written
                if self._trouble != str(error):
                    self._trouble = str(error)
                    say("job", self._trouble, level=40)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # one turn must not end the server
                say("server", f"unexpected {type(error).__name__}: {error}", level=40)
                await asyncio.sleep(1)

    async def _turn(self) -> None:
        if self.supervisor.has_died:
            await self._retire()
        if self._load_wanted is not None and not self._load_wanted.done():
            await self._load_now(self._load_wanted)
        elif self._unload_wanted:
            await self._unload_now()
        elif not await self._shared.outcomes.flush():
            await self._shared.clock.wait(self._wake, RETRY_SECONDS)
        elif (job := await self._claimed()) is not None:
            await self._work(job)
        elif self._plans:
            await self._plan_now(*self._plans.pop(0))
        elif self.keep_alive.is_over:
            await self._unload_now()
        else:
            await self._idle()

    async def _load_now(self, wanted: asyncio.Future[None]) -> None:
        try:
            worker = await self.supervisor.ready()
            worker.send("load")
            while (message := await worker.receive())["say"] not in ("loaded", "load_failed"):
                self._observer.take(None, worker, message)
            if message["say"] == "load_failed":
                raise from_json(message)
            worker.loaded = True
        except Exception as error:
            await self._retire()
            wanted.set_exception(_as_ours(error))
        else:
            wanted.set_result(None)

    async def _plan_now(self, request: Message, answer: asyncio.Future[Message | None]) -> None:
        worker = self.supervisor.worker
        if answer.done() or worker is None or not self.supervisor.is_ready:
            return
        worker.send("plan", request=request, keep=self.keep_alive.seconds(None) > 0)
        try:
            planned = await worker.receive()
        except WorkerFailed:  # the next turn retires it
            planned = None
        if not answer.done():
            answer.set_result(planned)

    async def _unload_now(self) -> None:
        worker = self.supervisor.worker
        if worker is not None and worker.used:
            await self._retire()
            say("unload", "the worker has ended; the GPU holds nothing of ours", device=self.name)
        self.keep_alive.hold()
        self._unload_wanted = False

    async def _retire(self) -> None:
        self.keep_alive.hold()
        await self.supervisor.retire()
        self._shared.memory.free_unless(self._uses_memory(each) for each in self._shared.consumers)

    async def _claimed(self) -> Job | None:
        """The next job, now this worker's. With `calls` only where one waits, which is answered."""
        calls = self._shared.calls
        if calls is None:
            return await self._next_job()
        if calls.are_none:
            return None
        job = await self._next_job()
        if job is not None:
            self.running = self._begin(job)  # before its caller asks whether it runs
        calls.answer(job)
        return job

    async def _next_job(self) -> Job | None:
        await asyncio.to_thread(self._settle_interrupted)
        if not await self._is_its_turn():
            return None
        return await asyncio.to_thread(next_job, self._shared.store, self.name)

    def _settle_interrupted(self) -> None:
        for job in self._shared.store.claimed_by(self.name):  # nothing runs here now, so they were interrupted
            settle_interrupted(self._shared.store, self._shared.folders, job, client_left=False)

    async def _is_its_turn(self) -> bool:
        """Whether the next job is for this worker; see `sharing`."""
        everyone = self._shared.consumers
        if not others_well(self, everyone):
            return True
        if self._steps_back and any(other.is_free for other in everyone):
            return False
        waiting = await asyncio.to_thread(self._shared.store.count, "queued")
        first = going_first(self, everyone)
        if waiting > len(first):
            return await self._gets_ready()
        if waiting:
            self._wake_all(first)  # one of them may have left the job to this one a moment ago
        return False

    async def _gets_ready(self) -> bool:
        """Whether the worker has opened the model; starts it where there is none. A wake ends the wait."""
        await self.supervisor.stand_by(self._wake)
        if (worker := self.supervisor.worker) is not None:
            await first_of(worker.ready, self._wake)
        if self.is_sick:
            self._wake_all(self._shared.consumers)  # they left the job to this one
        return self.is_ready

    def _wake_all(self, consumers: Sequence[Consumer]) -> None:
        for consumer in consumers:
            if consumer is not self:
                consumer.wake()

    async def _idle(self) -> None:
        if self._shared.settings.standby:
            await self.supervisor.stand_by(self._wake)
        back = self._steps_back_until - self._shared.clock.now()
        await self._shared.clock.wait(self._wake, min(self.keep_alive.seconds_left, back if back > 0 else NEVER))

    # -- one job -----------------------------------------------------------------------------------------------------

    async def _work(self, job: Job) -> None:
        self.running = running = self.running or self._begin(job)
        try:
            result = await self._attempt(running)
            self._shared.without_room.pop(job.id, None)
            await to_the_end(self._finish(job, result))
        except asyncio.CancelledError:
            self._put_back(job)
            raise
        except _RoomElsewhere:
            await self._leave_to_others(job)
        except Exception as error:
            self._shared.without_room.pop(job.id, None)
            await self._settle(job, _as_ours(error))
        finally:
            self.running = None
            await asyncio.to_thread(self._shared.folders.release, job.id)
            self.keep_alive.start(self.supervisor.worker, self.keep_alive.seconds(job.keep_alive))
            self._shared.changes.publish_all()

    def _begin(self, job: Job) -> Running:
        loads_first = not self.supervisor.is_loaded and self.keep_alive.seconds(job.keep_alive) > 0
        estimates = self._shared.estimates
        expected = estimates.for_job(stage_1_passes(job.request), loads_first)
        self.keep_alive.hold()
        self._shared.changes.publish_all()  # queue positions moved
        self._wake_all(self._shared.consumers)  # one of them may have left the next job to this one
        say("job", "started", id=job.id, attempt=job.attempts, device=self.name)
        return Running(job, Progress(expected, self._shared.clock.now(), estimates.measured))

    async def _attempt(self, running: Running) -> dict[str, Any]:
        """Run the job and return its result. Waits for device memory as long as the settings allow."""
        clock, patience = (
            self._shared.clock,
            Patience(parse_duration(self._shared.settings.vram_wait), self._shared.clock),
        )
        while True:
            try:
                return await self._run_on_worker(running)
            except BudgetTooSmall as error:
                patience.raise_if_over(error)
                if self._may_have_room_elsewhere(running.job):
                    raise _RoomElsewhere from error
                say("vram", f"waiting: {error}", id=running.job.id, device=self.name)
                running.progress.phase = "wait_for_memory"
                self._shared.changes.publish(running.job.id)
                await clock.wait(running.cancelled, VRAM_RETRY_SECONDS)
                running.progress.started_at = clock.now()

    def _may_have_room_elsewhere(self, job: Job) -> bool:
        """Whether a worker is free that has not tried the job."""
        tried = self._shared.without_room.setdefault(job.id, set())
        tried.add(self.name)
        return any(other.is_free and other.name not in tried for other in self._shared.consumers)

    async def _run_on_worker(self, running: Running) -> dict[str, Any]:
        job = running.job
        worker = await self.supervisor.ready(running.cancelled)
        if not worker.loaded:
            self._shared.metrics.cold_starts.labels(self.name).inc()
        folder = await asyncio.to_thread(self._shared.folders.new_work, job.id, job.attempts)
        request = await self._patiently(running, self._shared.folders.fetch_inputs, job.id, job.request)
        if running.cancelled.is_set():
            raise Cancelled("The job was cancelled.")
        keep = self.keep_alive.seconds(job.keep_alive) > 0
        windows = str(self._shared.folders.windows(job.id).resolve())
        worker.send("run", job=job.id, request=request, folder=str(folder.resolve()), windows=windows, keep=keep)
        while True:
            message = await self._receive(worker, running)
            match message["say"]:
                case "event":
                    self._observer.take(running, worker, message)
                    if message["event"] == "WindowStarted" and message["window"] > 1:
                        self._in_background(self._shared.folders.keep_windows, job.id)
                case "done":
                    result: dict[str, Any] = message["result"]
                    return result
                case "failed":
                    raise from_json(message)
                case "cancelled":
                    raise Cancelled("The job was cancelled.")

    async def _receive(self, worker: WorkerClient, running: Running) -> Message:
        try:
            return await worker.receive()
        except WorkerFailed:
            if running.cancelled.is_set():  # it was killed for not stopping in time
                raise Cancelled("The job was cancelled.") from None
            raise

    async def _patiently(self, running: Running | None, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` in a thread, again and again while an object store does not answer. A cancelled job stops."""
        patience = Patience(STORAGE_SECONDS, self._shared.clock)
        cancelled = asyncio.Event() if running is None else running.cancelled
        while True:
            try:
                return await asyncio.to_thread(work, *arguments)
            except StorageFailed as error:
                if error.code != UNREACHABLE or cancelled.is_set():
                    raise
                patience.raise_if_over(error)
                say("storage", f"waiting: {error}", level=30)
                await self._shared.clock.wait(self._stopping if running is None else cancelled, RETRY_SECONDS)
                if self._stopping.is_set():
                    raise asyncio.CancelledError from error  # the job is put back

    def _in_background(self, work: Callable[..., None], job_id: str) -> None:
        """What fails there costs the next attempt time, and nothing else."""

        async def do() -> None:
            try:
                await asyncio.to_thread(work, job_id)
            except (OSError, StorageFailed) as error:
                say("storage", str(error), id=job_id, level=30)

        self._tasks.add(task := asyncio.create_task(do()))
        task.add_done_callback(self._tasks.discard)

    # -- the end of a job --------------------------------------------------------------------------------------------

    async def _finish(self, job: Job, result: dict[str, Any]) -> None:
        """Files first, record second: a crash between the two is repaired by `recovery`."""
        shared = self._shared
        if self._is_lost():
            raise Cancelled("Another server has the job.")
        await self._patiently(None, shared.folders.commit, job.id, job.attempts)
        await asyncio.to_thread(shared.folders.forget_windows, job.id, keep_partial=False)
        result["output_path"] = shared.folders.location(job.id, job.attempts)
        await shared.outcomes.record(job.id, lambda: shared.store.complete(job.id, result, job.lease))
        shared.estimates.learn(result["phases"], stage_1_passes(job.request), result.get("windows", 1))
        shared.metrics.completed(self.name, result)
        say("job", "completed", id=job.id, elapsed_s=result["elapsed_seconds"], peak_gib=result["peak_vram_gib"])

    async def _settle(self, job: Job, error: A2VError) -> None:
        """Record why a job has no result, and retire a worker that is dead or whose device state is in doubt."""
        shared, worker = self._shared, self.supervisor.worker
        if worker is not None and (worker.dead or worker.tainted):
            await self._retire()
        if await self._has_given_up(job):
            return
        await asyncio.to_thread(shared.folders.discard, job.id, job.attempts)
        verdict = after_failure(job, error)
        if verdict == "retry" and self.running is not None and self.running.cancelled.is_set():
            verdict = "cancel"
        if verdict != "retry":
            await asyncio.to_thread(shared.folders.forget_windows, job.id, keep_partial=True)
        match verdict:
            case "cancel":
                await shared.outcomes.record(job.id, lambda: shared.store.cancel(job.id, job.lease))
                shared.metrics.finished(self.name, "cancelled")
                say("job", "cancelled", id=job.id)
            case "retry":
                await shared.outcomes.record(
                    job.id, lambda: shared.store.requeue(job.id, forgive=False, lease=job.lease)
                )
                say("job", f"will be tried again: {error}", id=job.id, level=30)
            case "fail":
                code, status, field = error.code, error.http_status, error.field
                told = (code, str(error), status, field)
                await shared.outcomes.record(job.id, lambda: shared.store.fail(job.id, *told, lease=job.lease))
                shared.metrics.failed(self.name, code)
                say("job", f"failed: {error}", id=job.id, code=code, level=30)

    async def _leave_to_others(self, job: Job) -> None:
        """Return a job to the queue that this device has no room for now, and take none before a free worker has."""
        if await self._has_given_up(job):
            return
        await asyncio.to_thread(self._shared.folders.discard, job.id, job.attempts)
        self._steps_back_until = self._shared.clock.now() + VRAM_RETRY_SECONDS
        say("vram", "left to another worker", id=job.id, device=self.name)
        if self.running is not None and self.running.cancelled.is_set():
            await self._shared.outcomes.record(job.id, lambda: self._shared.store.cancel(job.id, job.lease))
            self._shared.metrics.finished(self.name, "cancelled")
        else:
            await self._shared.outcomes.record(
                job.id, lambda: self._shared.store.requeue(job.id, forgive=True, lease=job.lease)
            )
        self._wake_all(self._shared.consumers)

    async def _has_given_up(self, job: Job) -> bool:
        if not self._is_lost():
            return False
        await asyncio.to_thread(self._shared.folders.discard_work, job.id, job.attempts)
        say("job", "given up: another server has it", id=job.id, level=30)
        return True

    def _is_lost(self) -> bool:
        """Whether another server has the running job. What is lost later is found when the end is recorded."""
        if self.running is None:
            return False
        self.running.ending = True
        return self.running.lost

    def _put_back(self, job: Job) -> None:
        """Requeue the job because the server stops; the attempt does not count."""
        if self.supervisor.worker is not None:
            self.supervisor.worker.kill("the server is stopping")
        try:
            if self.running is not None and self.running.cancelled.is_set():
                self._shared.store.cancel(job.id, job.lease)
            self._shared.store.requeue(job.id, forgive=True, lease=job.lease)  # not where it has ended
        except StorageFailed as error:
            say("job", f"stopped with the server; the next start settles it: {error}", id=job.id, level=40)
        else:
            say("job", "stopped with the server", id=job.id)

    @staticmethod
    def _uses_memory(consumer: Consumer) -> bool:
        worker = consumer.supervisor.worker
        return worker is not None and worker.used


def _as_ours(error: Exception) -> A2VError:
    if isinstance(error, A2VError):
        return error
    if isinstance(error, OSError):  # of the job's folders
        return storage_failed("The video cannot be kept", error.errno)
    say("server", f"unexpected {type(error).__name__}: {error}", level=40)
    return A2VError(f"{type(error).__name__}: {error}")
