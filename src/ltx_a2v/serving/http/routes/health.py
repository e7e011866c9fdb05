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
from ltx_a2v.serving.work.scheduler import ELSEWHERE

PROBES = ("/health", "/ready", "/metrics")

routes = APIRouter(tags=["health"])


@routes.get("/health")
def health(service: Serving) -> api.Health:
    """Live: this process answers."""
    states, queued = _states(service), _queued(service)
    return api.Health(worker=service.scheduler.worker_state, devices=states, queued=queued)


@routes.get("/ready", responses={**openapi.errors(401, 403), 503: {"model": api.Ready}})
def ready(service: Serving) -> Response:
    """Ready: a job that came now would be kept, and started or queued."""
    problem = _problem(service)
    worker, devices = service.scheduler.worker_state, _states(service)
    reply = api.Ready(ready=problem is None, worker=worker, devices=devices, problem=problem)
    return JSONResponse(reply.model_dump(), 200 if problem is None else 503)


@routes.get("/metrics", response_class=Response, responses={**openapi.errors(401, 403), 200: openapi.PROMETHEUS})
def metrics(service: Serving) -> Response:
    """For Prometheus: queue, jobs, failures by kind, seconds per phase and step, memory."""
    told, queued = service.metrics, _queued(service)
    told.queued.set(math.nan if queued is None else queued)
    for worker in service.workers():
        told.running.labels(worker.device).set(int(worker.running is not None))
        told.model_loaded.labels(worker.device).set(int(worker.loaded))
        for gpu in worker.gpus:
            told.free_vram.labels(gpu.device).set(gpu.free)
            told.used_vram.labels(gpu.device).set(gpu.used)
        if not worker.gpus:
            told.free_vram.labels(worker.device).set(math.nan)
            told.used_vram.labels(worker.device).set(math.nan)
    if not service.scheduler.consumers:
        told.running.labels(ELSEWHERE).set(math.nan if queued is None else service.store.count("in_progress"))
    return Response(told.as_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _states(service: Service) -> dict[str, str]:
    return {consumer.name: consumer.state for consumer in service.scheduler.consumers}


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
