"""Splits a body into fields and files, and saves the files when the request is accepted.

Files are not opened here: another process checks them (`FileChecker`), and the worker decodes them.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ltx_a2v.errors import A2VError, Forbidden, InvalidRequest, TooLarge, shown_value
from ltx_a2v.request import Picture, Retake
from ltx_a2v.serving.http.bodies import FILE_FIELDS, PICTURE_PART, VIDEO_PART, parse_form, parse_json, unknown_field
from ltx_a2v.serving.http.receiving import Receiving, Share
from ltx_a2v.serving.jobs.folders import sync_to_disk
from ltx_a2v.settings.defaults import MAX_PICTURES
from ltx_a2v.settings.server import MIB, ServerSettings

MAX_FIELDS = 64
PIECE = 2**18
"""Characters of base64 that are decoded at a time: a multiple of four."""


@dataclass
class Body:
    """Plain fields, and where each of the two inputs comes from: a file of a form, a data URL or a path."""

    fields: dict[str, Any]
    sources: dict[str, UploadFile | str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """The body's field by input."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """Frame and strength of each of `images`, whose inputs are "image_0", "image_1" and so on."""
    retake: dict[str, float] | None = None
    """Start and end of the part of "video" that is made again."""


@contextlib.asynccontextmanager
async def read_body(request: Request, model: type[BaseModel], receiving: Receiving) -> AsyncIterator[Body]:
    """Raises `InvalidRequest`, `TooLarge` and `Unavailable`. Temporary files are gone when the context ends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with _form(request, receiving) as (form, text_size), receiving.parsing(text_size):
            yield await receiving.parse(lambda: _body_of_form(form, model))
    elif kind in ("application/json", ""):
        async with receiving.spooled(request, receiving.text_limit) as (file, size), receiving.parsing(size):
            yield await receiving.parse(lambda: body_of_json(model, file.read()))
    else:
        reason = f"A body of type {kind[:80]!r} is not read; send application/json or multipart/form-data"
        raise InvalidRequest(reason=reason)


def body_of_json(model: type[BaseModel], raw: bytes) -> Body:
    """Raises `InvalidRequest`."""
    return _body(parse_json(model, raw), {})


async def save_inputs(
    body: Body, folder: Path, settings: ServerSettings, video_of: Callable[[str], Awaitable[Path]]
) -> dict[str, str]:
    """Path per input ("audio", "image", "image_0" …); uploads are written to `folder`, and so is the video of a
    finished job, which `video_of` gives by its id.

    Raises `InvalidRequest`, `TooLarge` and `Forbidden`.
    """
    if "audio" not in body.sources and "video" not in body.sources:
        reason = "is missing: send the speech as a file, a data URL, or a path below the server's input folder"
        raise InvalidRequest("audio", reason=reason)
    saved = {}
    for name, source in body.sources.items():
        if name == "video" and is_job_id(source):
            saved[name] = await asyncio.to_thread(keep_video, await video_of(source), folder, name)
        else:
            saved[name] = await asyncio.to_thread(_save, name, body, folder, settings)
    return saved


def files_of_request(body: Body, saved: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a `GenerationRequest` that are files. `saved` is what `save_inputs` returned."""
    fields: dict[str, Any] = {which: path for which, path in saved.items() if which in ("audio", "image")}
    if body.retake is not None:
        fields |= {"retake": {**body.retake, "video": saved["video"]}, "audio": saved.get("audio", saved["video"])}
    pictures = [{**options, "file": saved[f"image_{n}"]} for n, options in enumerate(body.pictures)]
    return {**fields, "images": pictures} if pictures else fields


def kind_of(which: str) -> str:
    """ "image_1" is an "image"."""
    return which.partition("_")[0]


def about(field: str, error: A2VError) -> A2VError:
    """`error`, which replies then name as the field's."""
    error.field = field
    return error


def digest(body: Body, saved: Mapping[str, str]) -> str:
    """The same for bodies that ask for the same, however they are encoded. `saved` is what `save_inputs` returned."""
    asked: dict[str, Any] = {"fields": body.fields, **({"images": body.pictures} if body.pictures else {})}
    for name, source in body.sources.items():
        asked[name] = source if _is_path(source) else _file_digest(Path(saved[name]))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_path(source: UploadFile | str) -> TypeGuard[str]:
    return isinstance(source, str) and not source.startswith("data:")


class _Form(MultiPartParser):
    """Starlette's parser, with a bound on the text fields of one form, and of all forms, which stay in memory."""

    def __init__(self, request: Request, receiving: Receiving, room: Share, texts: Share) -> None:
        super().__init__(
            request.headers,
            receiving.chunks(request, receiving.form_limit, room),
            max_files=len(FILE_FIELDS) + MAX_PICTURES + 1,
            max_fields=MAX_FIELDS,
            max_part_size=receiving.text_limit,
        )
        self._receiving = receiving
        self._texts = texts
        self.text_size = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.text_size += end - start
            if self.text_size > self._receiving.text_limit:
                message = f"The form's text fields have more than the {self._receiving.text_limit // MIB} MiB allowed."
                raise TooLarge(message, "body_too_large")
            self._receiving.texts.take(self._texts, self.text_size)
        super().on_part_data(data, start, end)


@contextlib.asynccontextmanager
async def _form(request: Request, receiving: Receiving) -> AsyncIterator[tuple[FormData, int]]:
    """The form, and the bytes of its text fields."""
    with receiving.room.share() as room, receiving.texts.share() as texts:
        parser = _Form(request, receiving, room, texts)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise InvalidRequest(reason=f"The form cannot be read: {error.message}") from None
        try:
            yield form, parser.text_size
        finally:
            await form.close()


def _body_of_form(form: FormData, model: type[BaseModel]) -> Body:
    texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    names = [name for name, _ in form.multi_items()]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InvalidRequest(min(repeated)[:80], reason="is given more than once")
    for name in files:
        if PICTURE_PART.fullmatch(name):
            texts.setdefault(name, "")  # so that the picture is one of `images`
        elif name == VIDEO_PART and "retake" in model.model_fields:
            texts.setdefault(name, "")
        elif name not in FILE_FIELDS or name not in model.model_fields:
            raise unknown_field(name)
    return _body(parse_form(model, texts), files)


def _body(fields: dict[str, Any], files: dict[str, UploadFile]) -> Body:
    body = Body(fields)
    for name, which in FILE_FIELDS.items():
        source = files.get(name) or _text_of(name, fields.pop(name, None))
        if source is not None and which in body.sources:
            raise InvalidRequest(name, reason=f"gives the {which} a second time")
        if source is not None:
            body.sources[which], body.names[which] = source, name
    for number, options in enumerate(fields.pop("images", None) or ()):
        which, name = f"image_{number}", f"images[{number}]"
        source = files.get(name) or options.pop("file", None)
        if not source:
            raise InvalidRequest(name, reason="has no picture: send a file, a data URL, or a path")
        options.pop("file", None)
        Picture(file=Path("-"), **options)  # raises for a frame that cannot be
        body.sources[which], body.names[which] = source, name
        body.pictures.append(options)
    if fields.get("retake") is not None:
        _take_retake(body, files.get(VIDEO_PART))
    return body


def _take_retake(body: Body, file: UploadFile | None) -> None:
    retake = body.fields["retake"]
    source = file or retake.get("video")
    if not source:
        reason = "has no video: send a file, the id of a finished job, a data URL, or a path"
        raise InvalidRequest("retake.video", reason=reason)
    for which, name in body.names.items():
        if which != "audio":
            raise InvalidRequest(name, reason="is not used in a retake, whose pictures are the video's: leave it out")
    body.retake = body.fields["retake"] = {"start": retake["start"], "end": retake["end"]}
    Retake(video=Path("-"), **body.retake)  # raises for a range that is none
    body.sources["video"], body.names["video"] = source, "retake.video"


def is_job_id(source: UploadFile | str | None) -> TypeGuard[str]:
    return isinstance(source, str) and re.fullmatch(r"video_[0-9a-f]{32}", source) is not None


def _text_of(name: str, value: str | dict[str, str] | None) -> str | None:
    """A reference may be an object with one member, its URL."""
    if not isinstance(value, dict):
        return value
    known = f"{FILE_FIELDS[name]}_url"
    if set(value) != {known}:
        raise InvalidRequest(name, list(value)[:3], f"as an object must have the one member {known!r}")
    return value[known]


def _save(which: str, body: Body, folder: Path, settings: ServerSettings) -> str:
    name, source = body.names[which], body.sources[which]
    limit = settings.max_image_mb if kind_of(which) == "image" else settings.max_audio_mb
    if _is_path(source):
        return str(_below_input_dir(name, source, settings.input_dir))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / which
    if isinstance(source, str):
        with target.open("wb") as file:
            _decode(name, which, source, limit, file)
    else:
        _check_size(name, which, source.size or 0, limit)
        with target.open("wb") as file:
            shutil.copyfileobj(source.file, file)
    _sync(target)
    return str(target.resolve())


def keep_video(video: Path, folder: Path, which: str) -> str:
    """The video stays where another name of it is deleted."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / which
    try:
        os.link(video, target)
    except FileNotFoundError:
        raise InvalidRequest("retake.video", reason="was deleted meanwhile") from None
    except OSError:  # another file system, or one without links
        shutil.copyfile(video, target)
    _sync(target)
    return str(target.resolve())


def _sync(written: Path) -> None:
    """As durable as the job that needs it."""
    for path in (written, written.parent, written.parent.parent):
        sync_to_disk(path)


def _decode(name: str, which: str, url: str, limit: int, file: BinaryIO) -> None:
    """Decode in pieces, as a decoded copy of the whole would be almost as large as the body."""
    start = url.find(",") + 1
    if not url[: min(start, 200)].endswith(";base64,"):
        raise InvalidRequest(name, reason="is a data URL without ';base64,': encode the file in base64")
    _check_size(name, which, (len(url) - start) * 3 // 4, limit)
    try:
        for place in range(start, len(url), PIECE):
            piece = binascii.a2b_base64(url[place : place + PIECE], strict_mode=True)
            if len(piece) < PIECE // 4 * 3 and place + PIECE < len(url):
                raise ValueError("padding before the end")
            file.write(piece)
    except ValueError:
        raise InvalidRequest(name, reason="is a data URL whose base64 cannot be decoded") from None


def _check_size(name: str, which: str, size: int, limit: int) -> None:
    if size == 0:
        raise InvalidRequest(name, reason="is empty")
    if size > limit * MIB:
        kind = kind_of(which)
        message = f"The {kind} has {size / MIB:.1f} MiB; this server allows {limit}."
        raise about(name, TooLarge(message, f"{kind}_too_large"))


def _below_input_dir(name: str, given: str, input_dir: Path | None) -> Path:
    """The file with all links resolved; files outside of the folder and missing files give the same error."""
    if "://" in given:
        reason = "is a link, which is not followed: send the file itself, a data URL, or a path on the server"
        raise InvalidRequest(name, given, reason)
    if input_dir is None:
        reason = "This server was started without an input folder, so paths are not let in: send the file itself."
        raise about(name, Forbidden(reason))
    root = input_dir.resolve()
    try:
        path = (root / given).resolve(strict=True)
        if path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise about(name, Forbidden(f"{shown_value(given)} is not a file below the server's input folder."))
