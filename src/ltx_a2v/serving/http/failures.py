"""The replies to requests that fail."""

from __future__ import annotations

import sqlite3

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ltx_a2v.errors import A2VError, InvalidRequest
from ltx_a2v.serving.http.replies import error_body, error_reply
from ltx_a2v.serving.jobs.storage import FULL, storage_failed
from ltx_a2v.serving.logs import say
from ltx_a2v.settings.complaints import reason_of

MISTAKE = "The server made a mistake; its log says more."

_CODES = {404: "not_found", 405: "method_not_allowed"}


def answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(A2VError, _ours)
    app.add_exception_handler(OSError, _ours)
    app.add_exception_handler(sqlite3.Error, _ours)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def as_ours(error: Exception) -> A2VError:
    """A failure of the server's own disk is reported as such and not as a mistake of the client."""
    if isinstance(error, A2VError):
        return error
    if isinstance(error, OSError):
        return storage_failed(f"{type(error).__name__}: {error.strerror}", error.errno)
    full = isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    return storage_failed(f"The job records cannot be written ({error})", FULL if full else None)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    known = as_ours(error)
    if not isinstance(error, A2VError):
        say("server", str(known), level=40)
    return error_reply(known, request.url.path)


async def _invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    complaint = error.errors()[0]
    name = ".".join(str(part) for part in complaint["loc"][1:])
    if complaint["type"] == "missing":
        return error_reply(InvalidRequest(name, reason="is missing"), request.url.path)
    return error_reply(InvalidRequest(name, complaint["input"], reason_of(complaint)), request.url.path)


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # to no one


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid_request")
    body = error_body(code, str(error.detail), error.status_code, request.url.path)
    return JSONResponse(body, error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    say("server", f"unexpected {type(error).__name__}: {error}", level=40)
    return error_reply(A2VError(MISTAKE), request.url.path)
