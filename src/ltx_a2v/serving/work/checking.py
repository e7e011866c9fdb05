"""The server's end of the processes that open uploaded files before their job is accepted.

    Service ──{which, path, start}──> python -m ltx_a2v.serving.work.checker ──{problem, found}──> 422, or a job

The HTTP process never parses a client's file, and a busy worker would have to wait, so other processes do: one, and a
second one while the first is busy. Each starts when it is needed, ends when it was not used for a while, and is
replaced after a file that crashed or stalled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

from ltx_a2v.errors import InvalidAudio, InvalidImage, InvalidInput, from_json
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.work.client import environment_without_key
from ltx_a2v.serving.work.confinement import ONE_THREAD
from ltx_a2v.settings.loading import ENHANCER_KEY
from ltx_a2v.settings.server import ServerSettings

CHECK_SECONDS = 20.0
"""For one file; opening one takes milliseconds, decoding a picture of 100 megapixels seconds."""
PROCESSES = 2
"""A file that takes long must not hold up all others."""
EXIT_SECONDS = 1.0
TRIES = 2
"""The process may end for being idle at the moment that it is asked."""


class FileCheckers:
    """Several processes; a file goes to the one that was used last, of those that are free."""

    def __init__(self, settings: ServerSettings) -> None:
        self._all = [FileChecker(settings) for _ in range(PROCESSES)]
        self._free: asyncio.LifoQueue[FileChecker] = asyncio.LifoQueue()
        for checker in self._all:
            self._free.put_nowait(checker)
        self._told = False

    async def check(self, which: str, path: str, start: float = 0.0) -> dict[str, Any] | None:
        """As `FileChecker.check`."""
        checker = await self._free.get()
        try:
            return await checker.check(which, path, start)
        finally:
            self._free.put_nowait(checker)
            self._tell(checker.allowed)

    def _tell(self, allowed: list[str]) -> None:
        if allowed and not self._told:
            say("check", f"this system cannot keep what opens uploads from {', '.join(allowed)}", level=30)
            self._told = True

    async def stop(self) -> None:
        for checker in self._all:
            await checker.stop()


class FileChecker:
    """One process, which checks one file at a time."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.process: asyncio.subprocess.Process | None = None
        self.allowed: list[str] = []
        """What the system could not forbid the process; empty before its first answer."""
        self._turn = asyncio.Lock()

    async def check(self, which: str, path: str, start: float) -> dict[str, Any] | None:
        """Open an "audio" (and look for sound at `start` seconds), decode an "image", or inspect a "video": what
        `Inspection.as_json` says.

        Raises `InvalidAudio`, `InvalidImage`, `TooLarge`, and for a video `InvalidInput`. Where no process can be
        started, the worker's check must do.
        """
        async with self._turn:
            try:
                reply = await self._ask(json.dumps({"which": which, "path": path, "start": start}))
            except OSError as error:  # no more processes, descriptors or memory
                say("check", f"files are not checked: {error}", level=30)
                return None
        if reply is None:
            raise _unreadable(which)
        answer = json.loads(reply)
        self.allowed = answer["allowed"]
        if answer["problem"] is not None:
            raise from_json(answer["problem"])
        found: dict[str, Any] | None = answer.get("found")
        return found

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            assert process.stdin is not None
            process.stdin.close()  # `communicate` without input leaves it open
            await process.communicate()  # which closes the other pipe

    async def _ask(self, question: str) -> bytes | None:
        """The reply; None where the file crashed the process or took too long."""
        for _ in range(TRIES):
            process = await self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(question.encode() + b"\n")
                reply = await asyncio.wait_for(process.stdout.readline(), CHECK_SECONDS)
            except (TimeoutError, ConnectionError):
                reply = b""
            except BaseException:  # the client left: the reply must not be taken for the next one's
                await self.stop()
                raise
            if reply:
                return reply
            if not await self._ended_by_itself(process):
                return None
        return None

    async def _ended_by_itself(self, process: asyncio.subprocess.Process) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), EXIT_SECONDS)
        code = process.returncode
        await self.stop()
        return code == 0

    async def _started(self) -> asyncio.subprocess.Process:
        if self.process is not None and self.process.returncode is None:
            return self.process
        await self.stop()  # it has ended by itself: its pipes are still open
        limits = json.dumps([self._settings.max_image_pixels, self._settings.max_audio_seconds])
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ltx_a2v.serving.work.checker",
                limits,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={**environment_without_key(self._settings, ENHANCER_KEY), **ONE_THREAD},
            )
        )
        try:
            self.process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # the client left: the process serves the next one
            self.process = await starting
            raise
        return self.process


def _unreadable(which: str) -> InvalidInput:
    if which == "image":
        return InvalidImage("The picture cannot be opened; save it again as a png or jpeg.")
    if which == "video":
        return InvalidInput("The video cannot be read.")
    return InvalidAudio("The audio cannot be opened; save it again as a wav or mp3.")
