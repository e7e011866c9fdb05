"""What FastAPI cannot see by itself: bodies in two encodings, replies that are files, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ltx_a2v.serving.http import models as api

_BINARY = {"type": "string", "format": "binary"}
_REF = "#/components/schemas/{model}"

MP4: dict[str, Any] = {"description": "The video.", "content": {"video/mp4": {"schema": _BINARY}}}
CONTENT: dict[str, Any] = {
    "description": "The video or its thumbnail.",
    "content": {"video/mp4": {"schema": _BINARY}, "image/jpeg": {"schema": _BINARY}},
}
BYTES: dict[str, Any] = {"description": "The file.", "content": {"application/octet-stream": {"schema": _BINARY}}}
RANGE: dict[str, Any] = {"description": "No such range.", "content": {"text/plain": {"schema": {"type": "string"}}}}
EVENT_STREAM: dict[str, Any] = {
    "description": "Server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": "event: video\ndata: {…}\n\n"}},
}
PROMETHEUS: dict[str, Any] = {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}

_REASONS = {
    400: "What was given cannot be used.",
    401: "The API key is missing or wrong.",
    403: "Not let in: a path, host or origin.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "The job's state does not allow it.",
    410: "The files were removed after their time.",
    413: "Beyond a limit of the server.",
    422: "A value cannot be used.",
    429: "Too many jobs wait; see Retry-After.",
    500: "The job failed.",
    503: "Not now: too little memory, or the server is stopping.",
}


def errors(*statuses: int, plain: bool = False) -> dict[int | str, dict[str, Any]]:
    model = api.PlainErrorReply if plain else api.ErrorReply
    return {status: {"model": model, "description": _REASONS[status]} for status in statuses}


def body(model: str) -> dict[str, Any]:
    encodings = {"application/json": model, "multipart/form-data": f"{model}Form"}
    content = {kind: {"schema": {"$ref": _REF.format(model=name)}} for kind, name in encodings.items()}
    return {"requestBody": {"required": True, "content": content}}


def complete(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema["components"]["schemas"].update(_body_schemas())
        return app.openapi_schema

    return schema


def _body_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (api.VideoCreate, api.Generate):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
        schemas[f"{model.__name__}Form"] = _as_form(schema)
    return schemas


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields with files as parts; nested values are JSON or bracket keys, so any are let through."""
    form = copy.deepcopy(schema)
    form["title"] += "Form"
    form.pop("examples", None)
    for name, field in form["properties"].items():
        if name in ("audio", "input_reference", "image"):
            form["properties"][name] = {**_BINARY, "description": field.get("description", "")}
    form["required"] = [*form.get("required", []), "audio"]
    return form
