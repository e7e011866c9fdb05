"""Makes the videos of a batch on a server, a few at a time, through its HTTP API.

Each row is sent with its digest as `Idempotency-Key`: sent again, by a second run of the batch, it is the same job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ltx_a2v.batch.results import Result
from ltx_a2v.batch.rows import Row
from ltx_a2v.errors import A2VError, InvalidInput, Unavailable
from ltx_a2v.media.output_file import write_whole

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""How long a server may be away, as during a restart, before the batch stops."""
LONGEST_WAIT = 60.0
"""Seconds after which a full queue is tried again, whatever the server says."""
ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class _Sent:
    """A row and its job on the server."""

    row: Row
    job: str
    at: float


class Server:
    """The HTTP API of `ltx-a2v serve` at `url`. Raises `InvalidInput` for something that is no URL."""

    def __init__(self, url: str, api_key: str | None, in_flight: int) -> None:
        if not _is_url(url):
            raise InvalidInput(f"--server {url!r} is no URL; write it as http://127.0.0.1:8892.")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=60)
        self._url = url
        self._in_flight = in_flight
        self._full_until = 0.0
        """When the server asked to come back; earlier where one of our jobs ends."""

    def make(self, rows: Sequence[Row]) -> Iterator[Result]:
        """The result of each row as it ends. Jobs that run when this is closed go on on the server.

        Raises `Unavailable` where the server does not answer for a while.
        """
        waiting, sent = list(rows), list[_Sent]()
        with self._client:
            while waiting or sent:
                while waiting and len(sent) < self._in_flight and time.monotonic() >= self._full_until:
                    job = self._send(waiting[0])
                    if job is None:  # the queue is full
                        break
                    row = waiting.pop(0)
                    if isinstance(job, Result):
                        yield job
                    else:
                        sent.append(_Sent(row, job, time.monotonic()))
                time.sleep(POLL_SECONDS)
                for one in list(sent):
                    if (result := self._ended(one)) is not None:
                        sent.remove(one)
                        self._full_until = 0.0
                        yield result

    def _send(self, row: Row) -> str | Result | None:
        """The id of the row's job; a failed result where the server refuses the row; None where its queue is full."""
        fields, files = _form(row)
        with ExitStack() as stack:
            opened = {name: stack.enter_context(path.open("rb")) for name, path in files.items()}
            reply = self._ask("POST", "/v1/videos", data=fields, files=opened, headers={"Idempotency-Key": row.digest})
        if reply.status_code in (429, 503):
            later = float(reply.headers.get("Retry-After", POLL_SECONDS))
            self._full_until = time.monotonic() + min(later, LONGEST_WAIT)
            return None
        if reply.status_code == 401:
            raise InvalidInput(f"{self._url} wants an API key; put it into LTX_A2V_API_KEY.")
        if reply.is_error:
            return _failed(row, _message(reply), 0.0)
        return str(reply.json()["id"])

    def _ended(self, sent: _Sent) -> Result | None:
        job = self._ask("GET", f"/v1/videos/{sent.job}").json()
        if job.get("status") in ("queued", "in_progress"):
            return None
        seconds = time.monotonic() - sent.at
        if job.get("status") != "completed":
            error = job.get("error") or {}
            return _failed(sent.row, error.get("message") or f"The job is {job.get('status', 'gone')}.", seconds)
        video = self._ask("GET", f"/v1/videos/{sent.job}/content")
        if video.is_error:
            return _failed(sent.row, _message(video), seconds)
        output = sent.row.request.output_path
        write_whole(output, video.content)
        return Result(sent.row.number, "completed", str(output), round(seconds, 1), job["seed"], sent.row.digest)

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Asks again while the server is away."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._client.request(method, path, **given)
            except httpx.TransportError as error:
                if time.monotonic() > end:
                    raise Unavailable(
                        f"{self._url} does not answer ({type(error).__name__}); start it, then run the same command."
                    ) from error
                for file in given.get("files", {}).values():
                    file.seek(0)
                time.sleep(POLL_SECONDS)


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _form(row: Row) -> tuple[dict[str, str], dict[str, Path]]:
    """Fields and files of the request as the API calls them; fields with their default are left out."""
    request = row.request
    given = request.model_dump(mode="json", exclude_defaults=True, exclude=set(_NOT_SENT))
    fields = {_NAMES.get(name, name): str(value) for name, value in given.items()}
    if "auto" not in (request.width, request.height):
        fields["size"] = f"{request.width}x{request.height}"
    for name, value in request.guidance.model_dump(mode="json", exclude_defaults=True).items():
        fields[f"guidance[{name}]"] = json.dumps(value)
    files = {"audio": request.audio}
    for number, picture in enumerate(request.pictures):
        files[f"images[{number}]"] = picture.file
        fields[f"images[{number}][frame]"] = str(picture.frame)
        if picture.strength is not None:
            fields[f"images[{number}][strength]"] = str(picture.strength)
    return fields, files


_NOT_SENT = ("audio", "image", "images", "output_path", "save_latents", "work_dir", "guidance", "width", "height")
_NAMES = {"frame_rate": "fps"}


def check_for_server(rows: Sequence[Row]) -> None:
    """Raises `InvalidInput` for what only a local run can do."""
    for row in rows:
        for name in ("save_latents", "work_dir"):
            if getattr(row.request, name) is not None:
                raise InvalidInput(f"Row {row.number}: {name} is not possible with --server; leave it out.")


def _failed(row: Row, error: str, seconds: float) -> Result:
    request = row.request
    return Result(row.number, "failed", str(request.output_path), round(seconds, 1), request.seed, row.digest, error)


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise A2VError(f"The server answered {reply.status_code} without a reason; is it ltx-a2v's?") from None
