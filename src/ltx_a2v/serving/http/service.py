"""The operations of the routes on jobs and on the machine, independent of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from ltx_a2v.errors import (
    A2VError,
    Cancelled,
    Conflict,
    Expired,
    InvalidInput,
    InvalidRequest,
    NotFound,
    QueueFull,
    Unavailable,
)
from ltx_a2v.hardware.driver import read_memory
from ltx_a2v.hardware.host_memory import children_of
from ltx_a2v.request import RETAKE_PROMPT
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http.bodies import LoadBody, parse_json
from ltx_a2v.serving.http.connections import Bounds
from ltx_a2v.serving.http.following import WAITING_SHARE, WaitingClients, until_disconnect
from ltx_a2v.serving.http.generation import check_video, generation_of
from ltx_a2v.serving.http.receiving import Receiving, SlowClient, drain
from ltx_a2v.serving.http.replies import param_of, without_folders
from ltx_a2v.serving.http.uploads import (
    Body,
    about,
    digest,
    files_of_request,
    is_job_id,
    kind_of,
    read_body,
    save_inputs,
)
from ltx_a2v.serving.jobs.estimate import expected_time, measured_peak
from ltx_a2v.serving.jobs.folders import VIDEO, Folders
from ltx_a2v.serving.jobs.idempotency import Key
from ltx_a2v.serving.jobs.progress import Snapshot
from ltx_a2v.serving.jobs.records import Job, JobStore, new_job_id
from ltx_a2v.serving.jobs.retention import expires_at
from ltx_a2v.serving.jobs.storage import StorageProbe
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.webhooks.courier import Courier
from ltx_a2v.serving.webhooks.places import Places
from ltx_a2v.serving.webhooks.signing import Signer
from ltx_a2v.serving.work.checking import FileCheckers, Part
from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.serving.work.consumer import Consumer
from ltx_a2v.serving.work.running import Running
from ltx_a2v.serving.work.scheduler import ELSEWHERE, Scheduler
from ltx_a2v.settings.server import KeepOutputs, ServerSettings
from ltx_a2v.settings.units import NEVER

LARGEST_LOAD_BODY = 2**16
OF_THE_SOURCE = (
    "prompt",
    "negative_prompt",
    "quality",
    "num_inference_steps",
    "guidance",
    "speech_preparation",
    "prompt_style",
    "enhance_prompt",
    "visible_label",
    "check_sync",
)
"""Settings that a retake of a job has from it, unless it has its own."""
REMEMBERED_JOBS = 50
"""Completed jobs that an estimate looks at."""


class Service:
    """What the routes share."""

    def __init__(
        self, settings: ServerSettings, store: JobStore, folders: Folders, scheduler: Scheduler, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.store = store
        self.folders = folders
        self.scheduler = scheduler
        self.metrics = metrics
        self.keep = KeepOutputs.parse(settings.keep_outputs)
        self.receiving = Receiving(settings)
        self.waiting_clients = WaitingClients(int(WAITING_SHARE * Bounds.of(settings).connections))
        self.checker = FileCheckers(settings)
        self.places = Places(settings.webhook_allow)
        self.storage = StorageProbe(folders.outputs, folders.state, beyond=folders.problem)
        self.started_at = int(time.time())
        self._tasks: set[asyncio.Task[None]] = set()

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def create(self, request: Request, model: type[BaseModel], *, waited_for: bool) -> Job:
        """The job of this request, or of an earlier one with the same `Idempotency-Key`. Durable when it returns."""
        try:
            return await self._create(request, model, waited_for)
        except (ClientDisconnect, SlowClient):
            raise
        except Exception:
            await drain(request)
            raise

    async def _create(self, request: Request, model: type[BaseModel], waited_for: bool) -> Job:
        name = _idempotency_key(request)
        if name is None and await asyncio.to_thread(self.store.count, "queued") >= self.settings.max_queue:
            raise QueueFull(f"{self.settings.max_queue} jobs are waiting already; try again later.")
        async with read_body(request, model, self.receiving) as body:
            return await self.accept(body, waited_for=waited_for, key=name)

    async def accept(self, body: Body, *, waited_for: bool, key: str | None = None) -> Job:
        """The job that the body asks for, or the one that was made with the same key. Durable when it returns."""
        job_id = new_job_id()
        try:
            if body.retake is not None:
                body.fields = {**await self._settings_of_source(body), **body.fields}
            fields = generation_of(body.fields, self.settings)
            if (webhook := body.fields.get("webhook_url")) is not None:
                self.places.target(webhook)
            saved = await save_inputs(body, self.folders.inputs(job_id), self.settings, self._finished_video)
            fields |= await self._check_files(body, saved, fields["audio_start_time"])
            known = None if key is None else Key(key, await asyncio.to_thread(digest, body, saved))
            await asyncio.to_thread(self.folders.keep_inputs, job_id)
        except BaseException:
            await asyncio.to_thread(self.folders.remove, job_id)  # also where this task is being cancelled
            raise
        asked = {**fields, **files_of_request(body, saved)}
        job = await self._add(job_id, asked, body.fields.get("keep_alive"), waited_for, known, webhook)
        self.scheduler.wake()
        return job

    async def _settings_of_source(self, body: Body) -> dict[str, Any]:
        """What a retake takes over from the job whose video it is, where the body says nothing else."""
        source = body.sources["video"]
        if not is_job_id(source):
            return {"prompt": RETAKE_PROMPT}
        asked = (await asyncio.to_thread(self._finished, source)).request
        return {name: asked[name] for name in OF_THE_SOURCE if name in asked}

    def _finished(self, job_id: str) -> Job:
        """Raises `InvalidRequest` where the job has no video of which a part could be made again."""
        job = self.store.get(job_id)
        if job is None:
            raise InvalidRequest("retake.video", job_id, "is no job of this server")
        if job.state != "completed":
            raise InvalidRequest("retake.video", job_id, f"has no finished video: it is {job.state}")
        if job.expired:
            raise InvalidRequest("retake.video", job_id, "is gone: its files were removed after their time")
        return job

    async def _finished_video(self, job_id: str) -> Path:
        return await self.file(await asyncio.to_thread(self._finished, job_id), VIDEO)

    async def _check_files(self, body: Body, saved: dict[str, str], start: float) -> dict[str, Any]:
        """Width, height and frame rate of the video of a retake; nothing without one.

        Raises `InvalidAudio`, `InvalidImage`, `InvalidVideo` and `TooLarge`, about the field that gave the file, and
        `InvalidRequest` for a part that is not in the video.
        """
        found: dict[str, Any] = {}
        for which, path in saved.items():
            try:
                if which == "video":
                    found = await self._check_video(body, path, is_heard="audio" not in saved)
                else:
                    await self.checker.check(kind_of(which), path, start)
            except InvalidInput as error:
                raise error if isinstance(error, InvalidRequest) else about(body.names[which], error) from None
        return found

    async def _check_video(self, body: Body, path: str, is_heard: bool) -> dict[str, Any]:
        assert body.retake is not None
        part = Part(start=body.retake["start"], end=body.retake["end"], is_heard=is_heard)
        found = await self.checker.check("retake", path, part=part)
        if found is None:
            return {}
        check_video(found["width"], found["height"], found["frames"] / found["frame_rate"], self.settings)
        return {name: found[name] for name in ("width", "height", "frame_rate")}

    async def _add(
        self,
        job_id: str,
        fields: dict[str, Any],
        keep_alive: str | float | None,
        waited_for: bool,
        key: Key | None,
        webhook: str | None,
    ) -> Job:
        span = None if keep_alive is None else str(keep_alive)
        most = self.settings.max_queue
        try:
            job = await asyncio.to_thread(self.store.add, job_id, fields, span, waited_for, most, key, webhook)
        except Exception:
            await asyncio.to_thread(self.folders.remove, job_id)  # also where this task is being cancelled
            raise
        if job.id != job_id:  # the key's job, which has its own files
            await asyncio.to_thread(self.folders.remove, job_id)
        return job

    async def inspect(self, request: Request) -> dict[str, Any]:
        """What the video in the body says of itself, as `Inspection.as_json`."""
        folder = self.folders.inputs(new_job_id())
        try:
            folder.mkdir(mode=0o700)
            path = folder / VIDEO
            await self.receiving.save(request, path)
            found = await self.checker.check("video", str(path))
        except (ClientDisconnect, SlowClient):
            raise
        except Exception:
            await drain(request)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if found is None:
            raise Unavailable("The video cannot be inspected now; try again later.")
        return found

    async def keep_alive(self, request: Request) -> str | None:
        """Of a body of `POST /api/load`, which may be empty."""
        async with self.receiving.spooled(request, LARGEST_LOAD_BODY) as (file, _):
            raw = file.read()
        value = parse_json(LoadBody, raw).get("keep_alive") if raw else None
        return None if value is None else str(value)

    async def wait(self, job: Job, request: Request) -> Job:
        """The job when it has ended well. A client that leaves cancels its job. Raises what the job failed with."""
        left = asyncio.create_task(until_disconnect(request))
        try:
            job = await self._wait_for_end(job, left)
        except asyncio.CancelledError:  # how Ray Serve says that the client has left
            if not self.scheduler.stopping:
                self._in_background(self.scheduler.cancel(job))
            raise
        finally:
            left.cancel()
        if job.state == "failed":
            raise _failure(job)
        if job.state == "cancelled":
            raise Cancelled("The job was cancelled.")
        return job

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            with contextlib.suppress(A2VError):  # it has ended, or its record cannot be written now
                await work

        self._tasks.add(task := asyncio.create_task(do()))
        task.add_done_callback(self._tasks.discard)

    async def _wait_for_end(self, job: Job, left: asyncio.Task[None]) -> Job:
        with self.scheduler.changes.watch(job.id) as changed:
            while not job.is_final:
                if self.scheduler.stopping:
                    raise Unavailable("The server is stopping; send the request again when it is back.")
                if left.done() and not job.cancel_requested:
                    await self.scheduler.cancel(job)
                woken = asyncio.create_task(changed.wait())
                await asyncio.wait({woken} if left.done() else {woken, left}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                changed.clear()
                job = await self.find(job.id)
        return job

    async def find(self, job_id: str) -> Job:
        job = await asyncio.to_thread(self.store.get, job_id)
        if job is None:
            raise about("video_id", NotFound(f"There is no video {job_id!r}."))
        return job

    async def page(self, after: str | None, limit: int, newest_first: bool) -> api.VideoList:
        """Up to `limit` jobs that follow the one with the id `after`."""
        jobs = await asyncio.to_thread(self.store.page, after, limit + 1, newest_first)
        data = [await self.video(job) for job in jobs[:limit]]
        ids = [video.id for video in data]
        return api.VideoList(
            data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=len(jobs) > limit
        )

    async def video(self, job: Job) -> api.Video:
        position = await asyncio.to_thread(self.store.position, job)
        return self._video(job, position)

    def _video(self, job: Job, position: int | None) -> api.Video:
        live = None if job.is_final else self.scheduler.running_job(job.id)
        progress = self._progress(job, live)
        end = expires_at(job, self.keep)
        asked = job.request
        return api.Video(
            id=job.id,
            model=self.settings.model_id,
            status=job.state,
            progress=100 if job.state == "completed" else progress.percent,
            created_at=int(job.created_at),
            started_at=_whole(job.started_at),
            completed_at=_whole(job.finished_at),
            expires_at=_whole(end),
            expired=job.expired,
            prompt=asked["prompt"],
            size=_size(job),
            seconds=_seconds(job),
            seed=asked["seed"],
            error=_error(job),
            queue_position=position,
            phase=progress.phase,
            step=progress.step,
            steps=progress.steps,
            window=progress.window,
            windows=(job.result or {}).get("windows", progress.windows),
            eta_seconds=progress.eta_seconds,
            cancelling=live.cancelled.is_set() if live else job.state == "in_progress" and job.cancel_requested,
            attempts=job.attempts,
            device=job.owner and job.owner.rpartition("/")[2],
            has_image=asked.get("image") is not None,
            settings=_settings(asked),
            result={**job.result, "id": job.id, "video_url": video_url(job)} if job.result else None,
        )

    def _progress(self, job: Job, live: Running | None) -> Snapshot:
        """Of a job here, or as the server that runs it has written it."""
        if live is not None:
            return live.progress.snapshot(time.monotonic())
        return Snapshot(**job.progress) if job.progress and job.state == "in_progress" else Snapshot()

    async def file(self, job: Job, name: str) -> Path:
        """Raises `Expired`, `Conflict` (not finished) and `NotFound`."""
        if job.expired:
            raise Expired(f"The files of {job.id} were removed after their time.")
        if job.state != "completed":
            raise Conflict(f"{job.id} has no content: it is {job.state}.")
        path = await asyncio.to_thread(self.folders.finished_file, job.id, job.attempts, name)
        if path is None:
            raise NotFound(f"The file {name} of {job.id} is gone.")
        return path

    async def partial(self, job: Job) -> Path:
        """The finished windows of a video that is not complete. Raises `Expired` and `Conflict`."""
        if job.state == "completed":
            return await self.file(job, VIDEO)
        if job.expired:
            raise Expired(f"The files of {job.id} were removed after their time.")
        path = await asyncio.to_thread(self.folders.partial_file, job.id)
        if path is None:
            raise Conflict(f"{job.id} has no finished part yet: it is {job.state}.")
        return path

    async def estimate(self, request: dict[str, Any], has_image: bool) -> api.Estimate:
        """What a job with the fields of `request` would take. The worker plans only where it is not at work."""
        done = [job for job in await asyncio.to_thread(self.store.completed, REMEMBERED_JOBS) if not _is_retake(job)]
        waiting = await asyncio.to_thread(self.store.count, "queued")
        planned = await self.scheduler.plan({**request, "image": "-" if has_image else None}) or {}
        consumer = self.scheduler.next_free
        is_loaded = consumer is not None and consumer.is_loaded
        time = expected_time(request, [(job.request, job.result or {}) for job in done], is_loaded)
        measured = measured_peak(request, [(job.request, job.result or {}) for job in done])
        peak, problem = measured or planned.get("peak"), planned.get("problem")
        return api.Estimate(
            seconds=time.seconds,
            seconds_from=time.source,
            device=consumer.name if consumer else ELSEWHERE,
            peak_bytes=peak,
            peak_from=None if peak is None else "a video of this size" if measured else "the plan",
            fits=None if not planned else False if problem else True if planned["peak"] is not None else None,
            problem=problem,
            waiting=self.scheduler.jobs_before(waiting),
        )

    def courier(self) -> Courier | None:
        """Who tells of ended jobs; None where no place may be told. Raises `InvalidInput` for a secret that cannot be
        used."""
        if not self.places:
            return None
        signer = Signer(self.settings.webhook_secret, self.folders.state)
        return Courier(self.store, self.scheduler.changes, self.places, signer, self.video)

    # -- the machine -------------------------------------------------------------------------------------------------

    def workers(self) -> list[api.WorkerStatus]:
        """Each with the memory of its GPUs now, in the order of the devices."""
        return [_worker(consumer) for consumer in self.scheduler.consumers]


def _worker(consumer: Consumer) -> api.WorkerStatus:
    worker, running, end = consumer.supervisor.worker, consumer.running, consumer.keep_alive.expires_at
    gpus = _gpus(consumer.devices.members, worker.pid if worker is not None else None)
    return api.WorkerStatus(
        device=consumer.name if consumer else ELSEWHERE,
        worker=consumer.state,
        loaded=consumer.is_loaded,
        expires_at=None if end == NEVER else datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds"),
        running=running.job.id if running is not None else None,
        gpus=gpus,
        device_bytes=_device_bytes(gpus, worker),
    )


def _gpus(members: Sequence[str], pid: int | None) -> list[api.Gpu]:
    """The first one is used by the worker itself, the others by its helpers."""
    helpers = children_of(pid) if pid is not None and len(members) > 1 else []
    read = [(device, read_memory(device, *(helpers if index else [pid]))) for index, device in enumerate(members)]
    return [
        api.Gpu(device=device, total=memory.total, free=memory.free, used=memory.used, ours=memory.ours)
        for device, memory in read
        if memory is not None
    ]


def _device_bytes(gpus: Sequence[api.Gpu], worker: WorkerClient | None) -> int:
    """By the driver; where it does not report memory by process, by the worker's allocator."""
    held = [gpu.ours for gpu in gpus if gpu.ours is not None]
    if gpus and len(held) == len(gpus):
        return sum(held)
    return worker.device_bytes if worker is not None and worker.loaded else 0


def video_url(job: Job) -> str:
    return f"/v1/videos/{job.id}/content"


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[!-~]{1,255}", key):
        raise InvalidRequest("Idempotency-Key", key, "must be 1 to 255 printable ASCII characters without spaces")
    return key


def _settings(asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, without the paths of its files."""
    settings = {name: value for name, value in asked.items() if name not in ("audio", "image", "images", "retake")}
    part = asked.get("retake")
    if part is not None:
        settings["retake"] = {"start": part["start"], "end": part["end"]}
    shown = [{name: value for name, value in one.items() if name != "file"} for one in asked.get("images", ())]
    return {**settings, "images": shown}


def _is_retake(job: Job) -> bool:
    """Whose seconds and memory are those of its part, not of its video."""
    return job.request.get("retake") is not None


def _error(job: Job) -> api.JobError | None:
    if job.error_code is None:
        return None
    param = param_of(job.error_code, "", job.error_param or "")
    return api.JobError(code=job.error_code, message=without_folders(job.error_message or ""), param=param)


def _failure(job: Job) -> A2VError:
    error = A2VError(without_folders(job.error_message or "The job failed."))
    error.code = job.error_code or error.code
    error.field = job.error_param or ""
    error.http_status = job.error_status or error.http_status
    return error


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _size(job: Job) -> str:
    known = job.result or job.request
    return "auto" if "auto" in (known["width"], known["height"]) else f"{known['width']}x{known['height']}"


def _seconds(job: Job) -> str:
    known = job.result or job.request
    return known["num_frames"] if known["num_frames"] == "auto" else f"{known['num_frames'] / known['frame_rate']:.2f}"
