"""Errors as replies, in the shape that each API's clients expect."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse

from ltx_a2v.errors import A2VError, QueueFull, StorageFailed, Unauthorized, Unavailable

RETRY_AFTER_SECONDS = 10

_PARAMS = {
    "audio_too_large": "audio",
    "audio_too_long": "audio",
    "invalid_audio": "audio",
    "image_too_large": "image",
    "image_too_many_pixels": "image",
    "invalid_image": "image",
    "invalid_video": "retake.video",
    "size_too_large": "width",
    "video_too_long": "num_frames",
}
"""Code -> the field of `POST /generate` that it is about, for errors that carry none: those of the worker, which
does not know what the client called its files."""

_VIDEO_PARAMS = {"image": "input_reference", "width": "size", "height": "size", "frame_rate": "fps"}
"""What `/v1/videos` calls them."""

_STORAGE = {
    "storage_unreachable": "The server's database or object store does not answer; try again later.",
    "storage_full": "The server's disk is full; its operator must make room.",
    "storage_unwritable": "The server cannot write to its folders; its operator must look at them.",
}

_PATH = re.compile(r"(?<![^\s'\"(=])(?:/[^\s/'\":,;()]+)+/([^\s/'\":,;()]+)")


def error_reply(error: A2VError, path: str) -> JSONResponse:
    """`{"error": {code, message, …}}`, as OpenAI's clients expect; `POST /generate` has `{"error": "message"}`."""
    headers = {}
    if isinstance(error, QueueFull) or type(error) is Unavailable:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if type(error) is Unauthorized:
        headers["WWW-Authenticate"] = 'Basic realm="ltx-a2v: any name, the API key as password"'
    body = error_body(error.code, message_of(error), error.http_status, path, _param(error, path))
    return JSONResponse(body, error.http_status, headers)


def message_of(error: A2VError) -> str:
    """What clients are told."""
    message = _STORAGE.get(error.code, str(error)) if isinstance(error, StorageFailed) else str(error)
    return without_folders(message) if error.http_status >= 500 else message  # ours, so its paths are too


def _param(error: A2VError, path: str) -> str | None:
    return error.field or param_of(error.code, path)


def param_of(code: str, path: str, field: str = "") -> str | None:
    """What clients of `path` call the field of a job's error: `field` as the worker calls it, else by its code."""
    known = field or _PARAMS.get(code)
    return known if known is None or path == "/generate" else _VIDEO_PARAMS.get(known, known)


def error_body(code: str, message: str, status: int, path: str, param: str | None = None) -> dict[str, object]:
    if path == "/generate":
        return {"error": message, "code": code, "param": param}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"code": code, "message": message, "type": kind, "param": param}}


def without_folders(text: str) -> str:
    """`text` with absolute paths reduced to file names, so that clients do not learn the server's folders."""
    return _PATH.sub(r"\1", text)
