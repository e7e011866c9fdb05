"""Receives bodies as streams, with limits on their time, their size, and their total memory and disk space.

    client ──> Incoming (deadline, size) ──> temporary file ──> parsed, a few large ones at a time ──> uploads

While a client sends, at most a MiB of its body is in memory; longer bodies go to a temporary file. `Room` bounds the
bytes of all clients together. The first bytes of each body are not counted, so small requests pass while large ones
fill it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from starlette.requests import ClientDisconnect, Request

from ltx_a2v.errors import InvalidRequest, TooLarge, Unavailable
from ltx_a2v.settings.server import MIB, ServerSettings
from ltx_a2v.settings.units import parse_duration

T = TypeVar("T")

FREE_BYTES = 2**16
"""First bytes of each body, which are not counted."""
IN_MEMORY = MIB
LARGE = MIB
LARGE_AT_ONCE = 2
"""Large bodies that are parsed at a time; each takes about three times its size."""
FULL_BODIES = 8
"""Bodies of the largest size that all clients together may have in flight."""
DRAIN_SECONDS = 5.0


class SlowClient(InvalidRequest):
    """The body did not come in time."""

    code = "body_timeout"
    http_status = 408


class Room:
    """Bytes of bodies that may be in flight."""

    def __init__(self, total: int) -> None:
        self._free = total

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """For one body; given back at the end."""
        share = Share()
        try:
            yield share
        finally:
            self._free += share.taken

    def take(self, share: Share, size: int) -> None:
        """Raises `Unavailable` where `share` would have to grow beyond what is free."""
        grown = max(0, size - FREE_BYTES) - share.taken
        if grown <= 0:
            return
        if grown > self._free:
            raise Unavailable("Too many large bodies are being sent at once; try again later.")
        self._free -= grown
        share.taken += grown


class Share:
    """What one body has taken of a `Room`."""

    def __init__(self) -> None:
        self.taken = 0


class Receiving:
    """What all bodies of a server share."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.text_limit = settings.max_json_mb * MIB
        self.form_limit = (settings.max_image_mb + settings.max_audio_mb) * MIB + MIB
        largest = max(self.text_limit, self.form_limit)
        self.room = Room(FULL_BODIES * largest)
        self.texts = Room(FULL_BODIES * self.text_limit // 2)
        """For the text fields of forms, which stay in memory."""
        tempfile.gettempdir()  # found by a trial write, which a full disk would refuse later
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._parsers = ThreadPoolExecutor(LARGE_AT_ONCE, "parser")
        """Few threads, as the C library keeps the memory that each thread once used."""

    @contextlib.asynccontextmanager
    async def parsing(self, size: int) -> AsyncIterator[None]:
        """Large texts wait for each other: JSON becomes Python's objects, base64 becomes bytes."""
        async with self._large if size > LARGE else contextlib.nullcontext():
            yield

    async def parse(self, work: Callable[[], T]) -> T:
        """What `work` returns; it parses a body."""
        return await asyncio.get_running_loop().run_in_executor(self._parsers, work)

    async def chunks(self, request: Request, limit: int, share: Share) -> AsyncGenerator[bytes]:
        """The body's; `share` of `room` grows with them.

        Raises `TooLarge`, `SlowClient`, `Unavailable` and `ClientDisconnect`.
        """
        declared = request.headers.get("content-length", "")
        received = int(declared) if declared.isdecimal() and len(declared) < 20 else 0
        _check_size(received, limit)
        deadline = time.monotonic() + parse_duration(self.settings.upload_timeout)
        stream = request.stream().__aiter__()
        received = 0
        while (chunk := await self._next(stream, deadline)) is not None:
            received += len(chunk)
            _check_size(received, limit)
            self.room.take(share, received)
            yield chunk

    @contextlib.asynccontextmanager
    async def spooled(self, request: Request, limit: int) -> AsyncIterator[tuple[IO[bytes], int]]:
        """The body as a file at its start, and its size. Raises what `chunks` does."""
        with self.room.share() as share, tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
            size = 0
            async with contextlib.aclosing(self.chunks(request, limit, share)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk) if size > IN_MEMORY else file.write(chunk)
            file.seek(0)
            yield file, size

    async def save(self, request: Request, path: Path) -> None:
        """Write the body to a new file. Raises what `chunks` does, for a body larger than a form may be."""
        with self.room.share() as share, path.open("xb") as file:
            async with contextlib.aclosing(self.chunks(request, self.form_limit, share)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)

    async def _next(self, stream: AsyncIterator[bytes], deadline: float) -> bytes | None:
        pause = parse_duration(self.settings.body_timeout)
        left = deadline - time.monotonic()
        try:
            return await asyncio.wait_for(anext(stream), max(0.0, min(pause, left)))
        except StopAsyncIteration:
            return None
        except TimeoutError:
            total, longest = self.settings.upload_timeout, self.settings.body_timeout
            late = f"did not come within {total}" if left < pause else f"paused for {longest}"
            raise SlowClient(reason=f"The body {late}; send it faster") from None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The body is larger than the {limit // MIB} MiB that are allowed.", "body_too_large")


async def drain(request: Request) -> None:
    """Read and discard the body for a moment: a client that is cut off while it sends may never see the reply."""
    with contextlib.suppress(TimeoutError, RuntimeError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in request.stream():
                pass
