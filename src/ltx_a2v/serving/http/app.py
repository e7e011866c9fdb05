"""The ASGI application: routes, error handlers and middleware."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltx_a2v.serving.http import openapi
from ltx_a2v.serving.http.failures import answer_errors
from ltx_a2v.serving.http.routes import (
    admin,
    assistants,
    form,
    generate,
    health,
    inspection,
    openai,
    page,
    videos,
    webhooks,
)
from ltx_a2v.serving.http.security import Gate
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.logs import printable, say

LOGGED_PATH = 200
"""Characters."""


def build_app(service: Service) -> ASGIApp:
    app = FastAPI(title="ltx-a2v", version="1", docs_url=None, redoc_url=None, separate_input_output_schemas=False)
    app.state.service = service
    for subject in (videos, generate, inspection, openai, admin, form, health, page):
        app.include_router(subject.routes)
    app.webhooks.include_router(webhooks.events)
    page.mount_files(app)
    assistants.mount(app, service)
    app.openapi = openapi.complete(app)  # type: ignore[method-assign]
    answer_errors(app)
    return RequestLog(Gate(app, service.settings))


class RequestLog:
    """`[http] POST /generate 400`, one line per request that changes something or fails; not those of a monitor."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in health.PROBES:
            return await self._app(scope, receive, send)
        began = time.monotonic()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and (scope["method"] != "GET" or message["status"] >= 400):
                seconds = time.monotonic() - began
                path = printable(scope["path"], LOGGED_PATH)
                say("http", f"{scope['method'][:20]} {path} {message['status']}", seconds=seconds)
            await send(message)

        return await self._app(scope, receive, note)
