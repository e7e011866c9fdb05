"""`/v1/models`, which OpenAI's clients ask."""

from __future__ import annotations

from fastapi import APIRouter

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.routes.common import Serving

routes = APIRouter(tags=["models"])


@routes.get("/v1/models", responses=openapi.errors(401, 403))
async def models(service: Serving) -> api.ModelList:
    """The one model that is served."""
    return api.ModelList(data=[api.Model(id=service.settings.model_id, created=service.started_at)])
