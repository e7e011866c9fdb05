"""The server's end of a worker process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from ltx_a2v.errors import A2VError, BudgetTooSmall, WorkerFailed
from ltx_a2v.settings.server import ServerSettings

Message = dict[str, Any]
MAX_LINE = 2**22


class WorkerClient:
    """One worker process, from its start to its death. `receive` raises `WorkerFailed` when it is dead."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_death: Callable[[], None],
    ) -> None:
        self.process = process
        self.ready = asyncio.Event()
        """Set when the imports are done, and when the worker is dead."""
        self.dead = False
        self.problem: str | None = None
        """Why no job can succeed: the model cannot be opened."""
        self.device: str | None = None
        self.used = False
        """It was asked to work, so it may hold the device."""
        self.loaded = False
        self.device_bytes = 0
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._writer = writer
        self._on_death = on_death
        self._pump = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(cls, settings: ServerSettings, on_death: Callable[[], None]) -> WorkerClient:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ltx_a2v.serving.work.worker",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the server, which then ends the worker
                env={**os.environ, "LTX_A2V_LOG_FORMAT": settings.log_format},
            )
        client = cls(process, *await asyncio.open_connection(sock=ours, limit=MAX_LINE), on_death)
        client.send("start", engine=settings.engine, settings=settings.for_worker())
        return client

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, do: str, **fields: object) -> None:
        """Buffered; a message to a dead worker is lost, which `receive` tells."""
        self.used = self.used or do in ("run", "load")
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"do": do, **fields}).encode() + b"\n")

    async def receive(self) -> Message:
        message = await self._inbox.get()
        if message is None:
            raise WorkerFailed(f"The worker process {await self._cause_of_death()}.")
        return message

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()

    async def stop(self, grace: float = 5.0) -> None:
        """Ask it to exit, then make it; returns when the process is gone."""
        self.send("exit")
        if not self.ready.is_set():  # it would hear that after its imports
            self.kill()
        try:
            await asyncio.wait_for(self.process.wait(), grace)
        except TimeoutError:
            self.kill()
        await self.process.wait()
        await self._pump

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except (ConnectionError, ValueError):
            self.kill()  # it speaks no sense any more
        finally:
            self.dead = True
            self.loaded = False
            self._writer.close()
            self.ready.set()
            self._inbox.put_nowait(None)
            await self.process.wait()
            self._on_death()

    def _take(self, message: Message) -> None:
        if message["say"] == "standby":
            self.problem, self.device = message["problem"], message["device"]
            self.ready.set()
            return
        self.device_bytes = message.get("device_bytes", self.device_bytes)
        self._inbox.put_nowait(message)

    async def _cause_of_death(self) -> str:
        code = await self.process.wait()
        if code >= 0:
            return f"ended with status {code}"
        return f"was killed by {signal.Signals(-code).name}"


def error_from(message: Message) -> A2VError:
    """The worker's failure as the exception it was."""
    kind = _kinds().get(message["code"], A2VError)
    error = kind.__new__(kind)
    Exception.__init__(error, message["message"])
    error.code, error.http_status = message["code"], message["status"]
    return error


def _kinds(base: type[A2VError] = A2VError) -> dict[str, type[A2VError]]:
    kinds = {base.code: base}
    for kind in base.__subclasses__():
        kinds.update(_kinds(kind))
    return kinds


def taints_worker(error: A2VError) -> bool:
    """Whether the device's state is in doubt after this, so that the next job needs a fresh process."""
    return error.http_status >= 500 and not isinstance(error, BudgetTooSmall)
