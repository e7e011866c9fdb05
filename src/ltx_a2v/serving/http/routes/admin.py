"""`/api`: the model on the device, as Ollama's clients ask for it, and the machine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.routes.common import Serving

OneDevice = Annotated[str | None, Query(description="Only on this one of the server's devices; default: on all.")]

routes = APIRouter(prefix="/api", tags=["residency"], responses=openapi.errors(401, 403))


@routes.post("/load", openapi_extra=openapi.load_body(), responses=openapi.errors(400, 408, 413, 422, 500, 503))
async def load(request: Request, service: Serving, device: OneDevice = None) -> api.LoadReply:
    """Load the model now; replies when it is loaded."""
    await service.scheduler.load(await service.keep_alive(request), device)
    return api.LoadReply(status="loaded")


@routes.post("/unload", responses=openapi.errors(422))
async def unload(service: Serving, device: OneDevice = None) -> api.LoadReply:
    """Give the device's memory back now, or after the running job."""
    return api.LoadReply(status="unloaded" if await service.scheduler.unload(device) else "unloading")


@routes.get("/ps")
def loaded_models(service: Serving) -> api.LoadedModels:
    """What holds device memory: the model while it is loaded, or while a job uses it."""
    name, size = service.settings.model_id, service.settings.model_bytes
    holding = (worker for worker in service.workers() if worker.loaded or worker.running)
    models = [
        api.LoadedModel(
            name=name,
            model=name,
            size=size,
            device=worker.device,
            size_vram=worker.device_bytes,
            expires_at=worker.expires_at,
        )
        for worker in holding
    ]
    return api.LoadedModels(models=models)


@routes.get("/status")
def status(service: Serving) -> api.Status:
    """What the page shows of the machine."""
    scheduler, workers = service.scheduler, service.workers()
    return api.Status(
        worker=scheduler.worker_state,
        loaded=any(worker.loaded for worker in workers),
        expires_at=min((worker.expires_at for worker in workers if worker.expires_at), default=None),
        queued=service.store.count("queued"),
        running=next((worker.running for worker in workers if worker.running), None),
        gpu=next((gpu for worker in workers for gpu in worker.gpus), None),
        device_bytes=sum(worker.device_bytes for worker in workers),
        workers=workers,
    )
