"""The parts of the schema that FastAPI cannot derive: bodies in two encodings, replies that are files, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ltx_a2v.serving.http import bodies
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
TAGGED: dict[str, Any] = {
    "headers": {"ETag": {"description": "The same while the job is the same.", "schema": {"type": "string"}}}
}
NOT_MODIFIED: dict[str, Any] = {"description": "The job is as `If-None-Match` knows it."}
PROMETHEUS: dict[str, Any] = {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}

_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body makes one job, however often it is sent within a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

_REASONS = {
    400: "What was given cannot be used.",
    401: "The API key is missing or wrong.",
    403: "Not let in: a path, host or origin.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "The job's state does not allow it, or the Idempotency-Key came with another body.",
    410: "The files were removed after their time.",
    413: "Beyond a limit of the server.",
    422: "A value cannot be used.",
    429: "Too many jobs wait; see Retry-After.",
    500: "The job failed.",
    503: "Not now: too little memory, too many bodies at once, a read-only disk, or the server is stopping.",
    507: "The server's disk is full.",
}


def errors(*statuses: int, plain: bool = False) -> dict[int | str, dict[str, Any]]:
    model = api.PlainErrorReply if plain else api.ErrorReply
    return {status: {"model": model, "description": _REASONS[status]} for status in statuses}


def body(model: str) -> dict[str, Any]:
    encodings = {"application/json": model, "multipart/form-data": f"{model}Form"}
    content = {kind: {"schema": {"$ref": _REF.format(model=name)}} for kind, name in encodings.items()}
    return {"requestBody": {"required": True, "content": content}, "parameters": [_IDEMPOTENCY_KEY]}


def video_body() -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BINARY}}}}


def webhook_headers() -> dict[str, Any]:
    described = {
        "webhook-id": "The same at every try.",
        "webhook-timestamp": "Unix seconds of this try.",
        "webhook-signature": "`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64.",
    }
    shared = {"in": "header", "required": True, "schema": {"type": "string"}}
    return {"parameters": [{"name": name, "description": what, **shared} for name, what in described.items()]}


def load_body() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model="LoadBody")}}}
    return {"requestBody": {"required": False, "content": content}}


def complete(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(
                title=app.title, version=app.version, routes=app.routes, webhooks=app.webhooks.routes
            )
            schemas = app.openapi_schema["components"]["schemas"]
            schemas.update(_body_schemas())
            for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; refusals have our shape
                schemas.pop(unused, None)
            for webhook in app.openapi_schema["webhooks"].values():
                del webhook["post"]["responses"]["422"]  # receivers reply what they like
            for path in app.openapi_schema["paths"].values():
                for operation in path.values():
                    _errors_are_json(operation["responses"])
                    _refusals_have_our_shape(operation["responses"])
        return app.openapi_schema

    return schema


def _errors_are_json(responses: dict[str, dict[str, Any]]) -> None:
    """FastAPI describes them in the type of the route's stream."""
    for status, response in responses.items():
        stream = response.get("content", {}).pop("text/event-stream", None) if status != "200" else None
        if stream is not None:
            response["content"]["application/json"] = stream


def _refusals_have_our_shape(responses: dict[str, dict[str, Any]]) -> None:
    """FastAPI describes its own reply to parameters that cannot be used, where a route describes none."""
    for content in responses.get("422", {}).get("content", {}).values():
        if content["schema"].get("$ref", "").endswith("HTTPValidationError"):
            content["schema"]["$ref"] = _REF.format(model="ErrorReply")


def _body_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (bodies.VideoCreate, bodies.Generate, bodies.LoadBody):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for name in ("VideoCreate", "Generate"):
        schemas[f"{name}Form"] = _as_form(schemas[name])
    return schemas


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields with files as parts; nested values are JSON or bracket keys, so all names are accepted."""
    form = copy.deepcopy(schema)
    form["title"] += "Form"
    form.pop("examples", None)
    for name, field in form["properties"].items():
        if name in ("audio", "input_reference", "image"):
            form["properties"][name] = {**_BINARY, "description": field.get("description", "")}
    if "retake" not in form["properties"]:
        form["required"] = [*form.get("required", []), "audio"]
        return form
    options = bodies.RetakeOptions.model_json_schema()["properties"]
    parts = {f"retake[{name}]": option for name, option in options.items()}
    parts[bodies.VIDEO_PART] = {**_BINARY, "description": options["video"]["description"]}
    form["properties"] |= parts
    form["anyOf"] = [{"required": ["prompt", "audio"]}, {"required": ["retake"]}, {"required": list(parts)}]
    return form
