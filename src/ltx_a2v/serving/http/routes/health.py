"""`/health`, `/ready` and `/metrics`, for monitors."""

from __future__ import annotations

import math

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.routes.common import Serving
from ltx_a2v.serving.http.service import Service

PROBES = ("/health", "/ready", "/metrics")

routes = APIRouter(tags=["health"])


@routes.get("/health")
def health(service: Serving) -> api.Health:
    """Live: this process answers."""
    return api.Health(worker=service.scheduler.worker_state, queued=_queued(service))


@routes.get("/ready", responses={**openapi.errors(401, 403), 503: {"model": api.Ready}})
def ready(service: Serving) -> Response:
    """Ready: a job that came now would be kept, and started or queued."""
    problem = _problem(service)
    reply = api.Ready(ready=problem is None, worker=service.scheduler.worker_state, problem=problem)
    return JSONResponse(reply.model_dump(), 200 if problem is None else 503)


@routes.get("/metrics", response_class=Response, responses={**openapi.errors(401, 403), 200: openapi.PROMETHEUS})
def metrics(service: Serving) -> Response:
    """For Prometheus: queue, jobs, failures by kind, seconds per phase and step, memory."""
    gpu, scheduler, told = service.gpu(), service.scheduler, service.metrics
    queued = _queued(service)
    told.queued.set(math.nan if queued is None else queued)
    told.running.set(math.nan if queued is None else service.store.count("in_progress"))
    told.model_loaded.set(int(scheduler.is_loaded))
    told.free_vram.set(gpu.free if gpu else math.nan)
    told.used_vram.set(gpu.used if gpu else math.nan)
    return Response(told.as_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _queued(service: Service) -> int | None:
    """None while the records cannot be read: this process lives all the same."""
    try:
        return service.store.count("queued")
    except StorageFailed:
        return None


def _problem(service: Service) -> str | None:
    scheduler, state = service.scheduler, service.scheduler.worker_state
    if scheduler.stopping:
        return "The server is stopping."
    if problem := service.store.problem():
        return problem
    if service.store.count("queued") >= service.settings.max_queue:
        return "The queue is full."
    if state == "broken":
        return "The model cannot be opened; the log says why."
    if not scheduler.proven and service.settings.standby and state in ("none", "starting"):
        return "The worker starts."
    return service.storage.problem()
