"""Bodies of requests: read as a stream, within limits, with the files on disk when they are accepted.

Nothing here looks into a file. Pictures and sound are decoded in the worker.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ltx_a2v.errors import Forbidden, InvalidRequest, TooLarge
from ltx_a2v.serving.http.models import FILE_FIELDS, parse_form, parse_json
from ltx_a2v.serving.jobs.folders import sync_to_disk
from ltx_a2v.settings.server import MIB, ServerSettings
from ltx_a2v.settings.units import parse_duration

MAX_FIELDS = 64
DRAIN_SECONDS = 5.0
FORM_OVERHEAD = MIB


class SlowClient(InvalidRequest):
    code = "body_timeout"
    http_status = 408


@dataclass
class Body:
    """A body taken apart: plain fields, and where each of the two inputs comes from."""

    fields: dict[str, Any]
    sources: dict[str, UploadFile | str] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def read_body(request: Request, model: type[BaseModel], settings: ServerSettings) -> AsyncIterator[Body]:
    """Raises `InvalidRequest` and `TooLarge`. Temporary files are gone when the context ends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form = await _read_form(request, kind, settings)
        try:
            yield _body_of_form(form, model)
        finally:
            await form.close()
    elif kind in ("application/json", ""):
        limit = settings.max_json_mb * MIB
        yield _body_of_json(b"".join([chunk async for chunk in _limited(request, limit, settings)]), model)
    else:
        raise InvalidRequest(f"A body of type {kind!r} is not read; send application/json or multipart/form-data.")


async def save_inputs(body: Body, folder: Path, settings: ServerSettings) -> dict[str, str]:
    """Path per input ("audio", "image"); uploads are written to `folder`.

    Raises `InvalidRequest`, `TooLarge` and `Forbidden`.
    """
    if "audio" not in body.sources:
        raise InvalidRequest("audio is missing: send the speech as a file, a data URL, or a path below --input-dir.")
    return {name: await asyncio.to_thread(_save, name, body.sources[name], folder, settings) for name in body.sources}


async def _limited(request: Request, limit: int, settings: ServerSettings) -> AsyncGenerator[bytes]:
    """The body's chunks, not more than `limit` bytes, none of them late."""
    declared = request.headers.get("content-length", "")
    received = 0
    stream = request.stream().__aiter__()
    pause = parse_duration(settings.body_timeout)
    while True:
        if max(received, int(declared) if declared.isdigit() else 0) > limit:
            await drain(request)
            raise TooLarge(f"The body is larger than the {limit // MIB} MiB that are allowed.", "body_too_large")
        try:
            chunk = await asyncio.wait_for(anext(stream), pause)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SlowClient(f"No data came for {settings.body_timeout}; send the body without such pauses.") from None
        received += len(chunk)
        yield chunk


async def drain(request: Request) -> None:
    """Read on for a moment without keeping it: a client that is cut off while it sends may never see the reply."""
    with contextlib.suppress(TimeoutError, RuntimeError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in request.stream():
                pass


async def _read_form(request: Request, kind: str, settings: ServerSettings) -> FormData:
    text_limit = settings.max_json_mb * MIB
    limit = (settings.max_image_mb + settings.max_audio_mb) * MIB + FORM_OVERHEAD
    if kind == "application/x-www-form-urlencoded":
        return await FormParser(request.headers, _limited(request, text_limit, settings)).parse()
    parser = MultiPartParser(
        request.headers,
        _limited(request, limit, settings),
        max_files=len(FILE_FIELDS),
        max_fields=MAX_FIELDS,
        max_part_size=text_limit,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form cannot be read: {error.message}") from None


def _body_of_form(form: FormData, model: type[BaseModel]) -> Body:
    texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    names = [name for name, _ in form.multi_items()]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InvalidRequest(f"{min(repeated)} is given more than once.")
    for name in files:
        if name not in FILE_FIELDS or name not in model.model_fields:
            raise InvalidRequest(f"Unknown field {name!r}.")
    return _body(parse_form(model, texts), files)


def _body_of_json(raw: bytes, model: type[BaseModel]) -> Body:
    return _body(parse_json(model, raw), {})


def _body(fields: dict[str, Any], files: dict[str, UploadFile]) -> Body:
    sources: dict[str, UploadFile | str] = {}
    for name, which in FILE_FIELDS.items():
        source = files.get(name) or _text_of(name, fields.pop(name, None))
        if source is not None and which in sources:
            raise InvalidRequest(f"The {which} is given twice.")
        if source is not None:
            sources[which] = source
    return Body(fields, sources)


def _text_of(name: str, value: str | dict[str, str] | None) -> str | None:
    """A reference may be an object with one member, its URL."""
    if not isinstance(value, dict):
        return value
    known = f"{FILE_FIELDS[name]}_url"
    if set(value) != {known}:
        raise InvalidRequest(f"{name} as an object has the one member {known!r}; given were {sorted(value)}.")
    return value[known]


def _save(name: str, source: UploadFile | str, folder: Path, settings: ServerSettings) -> str:
    limit = getattr(settings, f"max_{name}_mb") * MIB
    if isinstance(source, str) and not source.startswith("data:"):
        return str(_below_input_dir(source, settings.input_dir))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / name
    if isinstance(source, str):
        target.write_bytes(_decoded(name, source, limit))
    else:
        _check_size(name, source.size or 0, limit)
        with target.open("wb") as file:
            shutil.copyfileobj(source.file, file)
    for written in (target, folder, folder.parent):  # as durable as the job that needs it
        sync_to_disk(written)
    return str(target.resolve())


def _decoded(name: str, url: str, limit: int) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidRequest(f"{name} is a data URL without ';base64,': encode the file in base64.")
    _check_size(name, len(payload) * 3 // 4, limit)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{name} is a data URL whose base64 cannot be decoded.") from None


def _check_size(name: str, size: int, limit: int) -> None:
    if size == 0:
        raise InvalidRequest(f"{name} is empty.")
    if size > limit:
        message = f"The {name} has {size / MIB:.1f} MiB; this server allows {limit // MIB}."
        raise TooLarge(message, f"{name}_too_large")


def _below_input_dir(given: str, input_dir: Path | None) -> Path:
    """The file with all links followed; one answer for what is outside and what does not exist."""
    if "://" in given:
        raise InvalidRequest("Links are not fetched: send the file itself, a data URL, or a path below --input-dir.")
    if input_dir is None:
        raise Forbidden("Paths on the server are not allowed here: the server was started without --input-dir.")
    root = input_dir.resolve()
    try:
        path = (root / given).resolve(strict=True)
        if path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise Forbidden(f"{given!r} is no file below the server's input folder.")
