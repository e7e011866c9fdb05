"""What the server sends to `webhook_url`, for the schema; `serving.webhooks` sends it."""

from __future__ import annotations

from fastapi import APIRouter

from ltx_a2v.serving.http import models as api
from ltx_a2v.serving.http import openapi

events = APIRouter(tags=["webhooks"])


@events.post("video", openapi_extra=openapi.webhook_headers(), responses={200: {"description": "Any 2xx will do."}})
def video_ended(event: api.VideoEvent) -> None:
    """A job with `webhook_url` has ended. Sent again until the reply is a 2xx, or 410."""
