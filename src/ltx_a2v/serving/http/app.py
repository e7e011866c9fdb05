"""The routes. Each reads its request, asks the store or the scheduler, and shapes the reply."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltx_a2v.errors import A2VError, Conflict, Expired, InvalidRequest, NotFound
from ltx_a2v.request import GenerationRequest, Guidance, nearest_sizes
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.replies import error_body, error_reply
from ltx_a2v.serving.http.security import Gate
from ltx_a2v.serving.http.service import Service, video_url
from ltx_a2v.serving.jobs.folders import THUMBNAIL, VIDEO
from ltx_a2v.serving.jobs.records import Job
from ltx_a2v.serving.logs import say
from ltx_a2v.settings.server import PRESETS

PAGE = Path(str(files("ltx_a2v.serving") / "page"))
SSE_PING_SECONDS = 15.0
PROBES = ("/health", "/ready", "/metrics")


def build_app(service: Service) -> ASGIApp:
    app = FastAPI(title="ltx-a2v", version="1", docs_url=None, redoc_url=None, separate_input_output_schemas=False)
    app.include_router(_videos(service))
    app.include_router(_synchronous(service))
    app.include_router(_residency(service))
    app.include_router(_health(service))
    app.include_router(_page())
    app.mount("/static", StaticFiles(directory=PAGE))
    app.openapi = openapi.complete(app)  # type: ignore[method-assign]
    _answer_errors(app)
    return RequestLog(Gate(app, service.settings))


def _videos(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/v1/videos", tags=["videos"], responses=openapi.errors(401, 403))
    job_errors = openapi.errors(404)

    @routes.post("", openapi_extra=openapi.body("VideoCreate"), responses=openapi.errors(400, 408, 413, 422, 429))
    async def create_video(request: Request) -> api.Video:
        """Make a video: the job is on the disk when this replies."""
        return await service.video(await service.create(request, api.VideoCreate, waited_for=False))

    @routes.post(
        "/sync",
        openapi_extra=openapi.body("VideoCreate"),
        response_class=FileResponse,
        responses={**openapi.errors(400, 408, 409, 413, 422, 429, 500, 503), 200: openapi.MP4},
    )
    async def create_video_and_wait(request: Request) -> FileResponse:
        """Make a video and reply with it. Leaving cancels the job."""
        job = await service.wait(await service.create(request, api.VideoCreate, waited_for=True), request)
        assert job.result is not None
        headers = {
            "X-Inference-Time-S": f"{job.result['elapsed_seconds']:.3f}",
            "X-Stage-Durations": json.dumps(job.result["phases"]),
            "X-Peak-Memory-MB": f"{job.result['peak_vram_gib'] * 1024:.0f}",
            "X-Video-Id": job.id,
        }
        return FileResponse(service.file(job, VIDEO), headers=headers, media_type="video/mp4")

    @routes.get("", responses=openapi.errors(422))
    async def list_videos(
        after: Annotated[str | None, Query(description="The id that the page follows.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
    ) -> api.VideoList:
        jobs = await asyncio.to_thread(service.store.page, after, limit + 1, order == "desc")
        data = [await service.video(job) for job in jobs[:limit]]
        ids = [video.id for video in data]
        return api.VideoList(
            data=data,
            first_id=ids[0] if ids else None,
            last_id=ids[-1] if ids else None,
            has_more=len(jobs) > limit,
        )

    @routes.get("/{video_id}", responses=job_errors)
    async def retrieve_video(video_id: str) -> api.Video:
        return await service.video(await service.find(video_id))

    @routes.get(
        "/{video_id}/content",
        response_class=FileResponse,
        responses={
            **openapi.errors(404, 409, 410, 422),
            200: openapi.CONTENT,
            206: openapi.CONTENT,
            416: openapi.RANGE,
        },
    )
    async def download_content(
        video_id: str, variant: Annotated[Literal["video", "thumbnail"], Query()] = "video"
    ) -> FileResponse:
        """The mp4 (ranges are understood) or a JPEG of its first frame."""
        job = await service.find(video_id)
        name, kind = (VIDEO, "video/mp4") if variant == "video" else (THUMBNAIL, "image/jpeg")
        filename = f"{job.id}{Path(name).suffix}"
        path = service.file(job, name)
        return FileResponse(path, media_type=kind, filename=filename, content_disposition_type="inline")

    @routes.get(
        "/{video_id}/inputs/{which}",
        response_class=FileResponse,
        responses={**openapi.errors(404, 410, 422), 200: openapi.BYTES, 206: openapi.BYTES, 416: openapi.RANGE},
    )
    async def download_input(video_id: str, which: Literal["audio", "image"]) -> FileResponse:
        """What was uploaded for this job, never shown by a browser as a page."""
        job = await service.find(video_id)
        if job.expired:
            raise Expired(f"The files of {job.id} were removed after their time (--keep-outputs).")
        path = service.folders.inputs(job.id) / which
        if not path.is_file():
            raise NotFound(f"{job.id} has no uploaded {which}.")
        return FileResponse(path, media_type="application/octet-stream", filename=which)

    @routes.get(
        "/{video_id}/events", response_class=StreamingResponse, responses={**job_errors, 200: openapi.EVENT_STREAM}
    )
    async def follow_video(video_id: str) -> StreamingResponse:
        """The job whenever it changes, as server-sent events named `video`; the stream ends with the job."""
        job = await service.find(video_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(service, job), media_type="text/event-stream", headers=headers)

    @routes.post("/{video_id}/cancel", responses=openapi.errors(404, 409))
    async def cancel_video(video_id: str) -> api.Video:
        """Stop it at its next step. `cancelling` is true until the worker has confirmed."""
        job = await service.find(video_id)
        await service.scheduler.cancel(job)
        return await service.video(await service.find(video_id))

    @routes.delete("/{video_id}", responses=openapi.errors(404, 409))
    async def delete_video(video_id: str) -> api.VideoDeleted:
        """Remove a job that has ended or waits, and its files."""
        job = await service.find(video_id)
        if job.state == "in_progress":
            raise Conflict(f"{job.id} is in progress: cancel it first.")
        if job.state == "queued":
            await service.scheduler.cancel(job)
        if not await asyncio.to_thread(service.store.delete, job.id):
            raise Conflict(f"{job.id} is in progress: cancel it first.")
        await asyncio.to_thread(service.folders.remove, job.id)
        return api.VideoDeleted(id=job.id)

    return routes


def _synchronous(service: Service) -> APIRouter:
    routes = APIRouter(tags=["synchronous"])

    @routes.post(
        "/generate",
        openapi_extra=openapi.body("Generate"),
        responses=openapi.errors(400, 401, 403, 408, 409, 413, 422, 429, 500, 503, plain=True),
    )
    async def generate(request: Request) -> api.Generated:
        """Make a video, reply when it is on the disk. Leaving cancels the job."""
        job = await service.wait(await service.create(request, api.Generate, waited_for=True), request)
        return api.Generated(**{**(job.result or {}), "id": job.id, "video_url": video_url(job)})

    return routes


def _residency(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/api", tags=["residency"], responses=openapi.errors(401, 403))
    scheduler = service.scheduler

    @routes.post("/load", responses=openapi.errors(400, 422, 500, 503))
    async def load(body: api.LoadBody | None = None) -> api.LoadReply:
        """Load the model now; replies when it is loaded."""
        keep_alive = body.keep_alive if body else None
        await scheduler.load(None if keep_alive is None else str(keep_alive))
        return api.LoadReply(status="loaded")

    @routes.post("/unload")
    async def unload() -> api.LoadReply:
        """Give the device's memory back now, or after the running job."""
        return api.LoadReply(status="unloaded" if await scheduler.unload() else "unloading")

    @routes.get("/ps")
    def loaded_models() -> api.LoadedModels:
        """What holds device memory: the model while it is loaded, or while a job uses it."""
        if not (scheduler.is_loaded or scheduler.running):
            return api.LoadedModels(models=[])
        name, held = service.settings.model_id, service.device_bytes(service.gpu())
        size = service.settings.model_bytes
        model = api.LoadedModel(name=name, model=name, size=size, size_vram=held, expires_at=service.expiry())
        return api.LoadedModels(models=[model])

    @routes.get("/status")
    def status() -> api.Status:
        """What the page shows of the machine."""
        gpu, running = service.gpu(), scheduler.running
        return api.Status(
            worker=scheduler.worker_state,
            loaded=scheduler.is_loaded,
            expires_at=service.expiry(),
            queued=service.store.count("queued"),
            running=running.job.id if running else None,
            gpu=api.Gpu(total=gpu.total, free=gpu.free, used=gpu.used, ours=gpu.ours) if gpu else None,
            device_bytes=service.device_bytes(gpu),
        )

    @routes.get("/options")
    def options() -> dict[str, Any]:
        """Defaults, presets and limits for a form."""
        limits = {"max_pixels", "max_frames", "max_image_mb", "max_audio_mb", "max_audio_seconds"}
        return {
            "model": service.settings.model_id,
            "presets": PRESETS,
            "defaults": _defaults(),
            "limits": service.settings.model_dump(mode="json", include=limits),
        }

    @routes.get("/fit", responses=openapi.errors(422))
    def fit(
        width: Annotated[int, Query(ge=1, le=100_000)],
        height: Annotated[int, Query(ge=1, le=100_000)],
        seconds: Annotated[float, Query(gt=0, le=100_000, allow_inf_nan=False)],
        fps: Annotated[float, Query(ge=1, le=120, allow_inf_nan=False)] = _defaults()["frame_rate"],
    ) -> api.Fitted:
        """The nearest size and length that the model can make, within the server's limits."""
        w, h = (min(nearest_sizes(side), key=lambda size: abs(size - side)) for side in (width, height))
        frames = min(api.fit_seconds(seconds, fps), (service.settings.max_frames - 1) // 8 * 8 + 1)
        return api.Fitted(width=w, height=h, size=f"{w}x{h}", num_frames=frames, seconds=round(frames / fps, 3))

    return routes


def _health(service: Service) -> APIRouter:
    routes = APIRouter(tags=["health"])
    scheduler = service.scheduler

    @routes.get("/health")
    def health() -> api.Health:
        """Live: this process answers."""
        return api.Health(worker=scheduler.worker_state, queued=service.store.count("queued"))

    @routes.get("/ready", responses={**openapi.errors(401, 403), 503: {"model": api.Ready}})
    def ready() -> Response:
        """Ready: a job that came now would be started or queued."""
        open_ = service.store.count("queued") < service.settings.max_queue and not scheduler.stopping
        state = scheduler.worker_state
        can_work = scheduler.proven or not service.settings.standby or state not in ("none", "starting")
        ready = open_ and can_work and state != "broken"
        return JSONResponse(api.Ready(ready=ready, worker=state).model_dump(), 200 if ready else 503)

    @routes.get("/metrics", response_class=Response, responses={**openapi.errors(401, 403), 200: openapi.PROMETHEUS})
    def metrics() -> Response:
        gpu = service.gpu()
        service.metrics.queued.set(service.store.count("queued"))
        service.metrics.running.set(int(scheduler.running is not None))
        service.metrics.model_loaded.set(int(scheduler.is_loaded))
        service.metrics.free_vram.set(gpu.free if gpu else math.nan)
        service.metrics.used_vram.set(gpu.used if gpu else math.nan)
        return Response(service.metrics.as_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/v1/models", responses=openapi.errors(401, 403))
    def models() -> api.ModelList:
        return api.ModelList(data=[api.Model(id=service.settings.model_id, created=service.started_at)])

    return routes


def _page() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    return routes


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    last = ""
    with service.scheduler.changes.watch(job.id) as changed:
        while not service.scheduler.stopping:
            changed.clear()
            current = await asyncio.to_thread(service.store.get, job.id)
            if current is None:
                return
            state = (await service.video(current)).model_dump_json()
            if state != last:
                yield f"event: video\ndata: {state}\n\n"
                last = state
            if current.is_final:
                return
            try:
                await asyncio.wait_for(changed.wait(), SSE_PING_SECONDS)
            except TimeoutError:
                yield ": still there\n\n"


def _defaults() -> dict[str, Any]:
    names = ("frame_rate", "num_inference_steps", "seed", "width", "height", "negative_prompt")
    guidance = {name: Guidance.model_fields[name].default for name in ("cfg", "modality")}
    return {name: GenerationRequest.model_fields[name].default for name in names} | guidance


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(A2VError)
    async def ours(request: Request, error: A2VError) -> JSONResponse:
        return error_reply(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        complaint = error.errors()[0]
        name = ".".join(str(part) for part in complaint["loc"][1:]) or "The body"
        return error_reply(InvalidRequest(f"{name}: {complaint['msg']}."), request.url.path)

    @app.exception_handler(ClientDisconnect)
    async def left(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # to no one

    @app.exception_handler(ValidationError)
    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        say("server", f"unexpected {type(error).__name__}: {error}", level=40)
        return error_reply(A2VError("The server made a mistake; its log says more."), request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        body = error_body(code, str(error.detail), error.status_code, request.url.path)
        return JSONResponse(body, error.status_code, error.headers)


class RequestLog:
    """`[http] POST /generate 400`, one line per request that changes something or fails; not those of a monitor."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        began = time.monotonic()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and (scope["method"] != "GET" or message["status"] >= 400):
                seconds = time.monotonic() - began
                say("http", f"{scope['method']} {scope['path']} {message['status']}", seconds=seconds)
            await send(message)

        return await self._app(scope, receive, note)
