"""Errors as replies, in the shape that each API's clients expect."""

from __future__ import annotations

from starlette.responses import JSONResponse

from ltx_a2v.errors import A2VError, QueueFull, Unauthorized

RETRY_AFTER_SECONDS = 10


def error_reply(error: A2VError, path: str) -> JSONResponse:
    """`{"error": {code, message, …}}`, as OpenAI's clients expect; `POST /generate` has `{"error": "message"}`."""
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if type(error) is Unauthorized:
        headers["WWW-Authenticate"] = 'Basic realm="ltx-a2v: any name, the API key as password"'
    return JSONResponse(error_body(error.code, str(error), error.http_status, path), error.http_status, headers)


def error_body(code: str, message: str, status: int, path: str) -> dict[str, object]:
    if path == "/generate":
        return {"error": message, "code": code}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"code": code, "message": message, "type": kind, "param": None}}
