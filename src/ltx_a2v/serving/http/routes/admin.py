"""`/api`: the model on the device, as Ollama's clients ask for it, and the machine."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.routes.common import Serving

routes = APIRouter(prefix="/api", tags=["residency"], responses=openapi.errors(401, 403))


@routes.post("/load", openapi_extra=openapi.load_body(), responses=openapi.errors(400, 408, 413, 422, 500, 503))
async def load(request: Request, service: Serving) -> api.LoadReply:
    """Load the model now; replies when it is loaded."""
    await service.scheduler.load(await service.keep_alive(request))
    return api.LoadReply(status="loaded")


@routes.post("/unload")
async def unload(service: Serving) -> api.LoadReply:
    """Give the device's memory back now, or after the running job."""
    return api.LoadReply(status="unloaded" if await service.scheduler.unload() else "unloading")


@routes.get("/ps")
def loaded_models(service: Serving) -> api.LoadedModels:
    """What holds device memory: the model while it is loaded, or while a job uses it."""
    scheduler = service.scheduler
    if not (scheduler.is_loaded or scheduler.running):
        return api.LoadedModels(models=[])
    name, held = service.settings.model_id, service.device_bytes(service.gpu())
    size = service.settings.model_bytes
    model = api.LoadedModel(name=name, model=name, size=size, size_vram=held, expires_at=service.expiry())
    return api.LoadedModels(models=[model])


@routes.get("/status")
def status(service: Serving) -> api.Status:
    """What the page shows of the machine."""
    scheduler, gpu = service.scheduler, service.gpu()
    running = scheduler.running
    return api.Status(
        worker=scheduler.worker_state,
        loaded=scheduler.is_loaded,
        expires_at=service.expiry(),
        queued=service.store.count("queued"),
        running=running.job.id if running else None,
        gpu=api.Gpu(total=gpu.total, free=gpu.free, used=gpu.used, ours=gpu.ours) if gpu else None,
        device_bytes=service.device_bytes(gpu),
    )
