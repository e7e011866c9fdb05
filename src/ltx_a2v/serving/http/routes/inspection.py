"""`POST /v1/inspect`: what a video says of itself."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.routes.common import Serving

routes = APIRouter(tags=["videos"])


@routes.post(
    "/v1/inspect",
    openapi_extra=openapi.video_body(),
    responses=openapi.errors(400, 401, 403, 408, 413, 422, 503, 507),
)
async def inspect(request: Request, service: Serving) -> api.Inspection:
    """What made the video in the body, with which settings, and whether it was changed since. Nothing is kept."""
    return api.Inspection(**await service.inspect(request))
