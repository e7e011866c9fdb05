"""`POST /generate`: one request, one reply, as the script that it replaces."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.bodies import Generate
from ltx_a2v.serving.http.routes.common import Serving
from ltx_a2v.serving.http.service import video_url

routes = APIRouter(tags=["synchronous"])


@routes.post(
    "/generate",
    openapi_extra=openapi.body("Generate"),
    responses=openapi.errors(400, 401, 403, 408, 409, 413, 422, 429, 500, 503, 507, plain=True),
)
async def generate(request: Request, service: Serving) -> api.Generated:
    """Make a video, reply when it is on the disk. Leaving cancels the job."""
    job = await service.wait(await service.create(request, Generate, waited_for=True), request)
    return api.Generated(**{**(job.result or {}), "id": job.id, "video_url": video_url(job)})
