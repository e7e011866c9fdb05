"""The server's end of a worker process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ltx_a2v.errors import WorkerFailed
from ltx_a2v.hardware.host_memory import death_by_signal
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER, parse_duration

Message = dict[str, Any]
MAX_LINE = 2**22
BEATS_PER_SILENCE = 8
MAX_BEAT_SECONDS = 5.0
OBJECT_STORE_KEYS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "PGPASSWORD")
ENDS_OF_WORK = ("done", "failed", "cancelled", "loaded", "load_failed", "planned")


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
        """Set when the worker's imports are done, and when it is dead."""
        self.dead = False
        self.problem: str | None = None
        """Why no job can succeed: the model cannot be opened."""
        self.device: str | None = None
        self.used = False
        """It has been sent work, so it may hold device memory."""
        self.loaded = False
        self.device_bytes = 0
        self.tainted = False
        """The device's state is in doubt, so the next job needs a fresh process."""
        self.working = False
        """It runs a job, loads the model or plans."""
        self.heard_at = self.moved_at = time.monotonic()
        """Times of the last message, and of the last message other than a heartbeat."""
        self.has_spoken = False
        self._killed_for: str | None = None
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._writer = writer
        self._on_death = on_death
        self._pump = asyncio.create_task(self._read(reader))

    @classmethod
    async def start(
        cls, settings: ServerSettings, on_death: Callable[[], None], memory: Sequence[int] = ()
    ) -> WorkerClient:
        """`memory`: files that all workers of the server share.

        Raises `OSError` where the system has no more processes, descriptors or memory."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "ltx_a2v.serving.work.worker",
                    *map(str, (theirs.fileno(), *memory)),
                    pass_fds=(theirs.fileno(), *memory),
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches the server, which then ends the worker
                    env=environment_without_key(settings),
                )
        except BaseException:
            ours.close()
            raise
        client = cls(process, *await asyncio.open_connection(sock=ours, limit=MAX_LINE), on_death)
        client.send("start", engine=settings.engine, settings=settings.for_worker(), beat=_beat_seconds(settings))
        return client

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, do: str, **fields: object) -> None:
        """Buffered; a message to a dead worker is lost, and `receive` then raises."""
        if do in ("run", "load", "plan"):
            self.used = self.used or do != "plan"
            self.working = True
            self.moved_at = time.monotonic()
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"do": do, **fields}).encode() + b"\n")

    async def receive(self) -> Message:
        message = await self._inbox.get()
        if message is None:
            raise WorkerFailed(f"The worker process {await self._cause_of_death()}.")
        return message

    def kill(self, reason: str | None = None) -> None:
        """Kill the process; `receive` then raises with `reason`. `os.kill`, because asyncio's `kill` first reaps a
        process that has just died, whose exit status then becomes 255."""
        if self.process.returncode is None:
            self._killed_for = self._killed_for or reason
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    async def stop(self, grace: float = 5.0) -> None:
        """Send "exit", and kill the process after `grace` seconds; returns when it is gone."""
        self.send("exit")
        if not self.ready.is_set():  # it would read "exit" only after its imports
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
            self.kill()  # its messages cannot be parsed any more
        finally:
            self.dead = True
            self.loaded = False
            self._writer.close()
            self.ready.set()
            self._inbox.put_nowait(None)
            await self.process.wait()
            self._on_death()

    def _take(self, message: Message) -> None:
        self.heard_at, self.has_spoken = time.monotonic(), True
        if message["say"] == "beat":
            return
        self.moved_at = self.heard_at
        self.working = self.working and message["say"] not in ENDS_OF_WORK
        self.tainted = self.tainted or message.get("tainted", False)
        if message["say"] == "standby":
            self.problem, self.device = message["problem"], message["device"]
            self.ready.set()
            return
        self.device_bytes = message.get("device_bytes", self.device_bytes)
        self._inbox.put_nowait(message)

    async def _cause_of_death(self) -> str:
        code = await self.process.wait()
        if self._killed_for is not None:
            return f"was killed: {self._killed_for}"
        if code >= 0:
            return f"ended with status {code}"
        return death_by_signal(-code)


def environment_without_key(settings: ServerSettings, *also_without: str) -> dict[str, str]:
    """The server's environment, for a process that parses untrusted files."""
    secret = ("LTX_A2V_API_KEY", "LTX_A2V_WEBHOOK_SECRET", "LTX_A2V_DATABASE", *OBJECT_STORE_KEYS, *also_without)
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in secret}
    return {**inherited, "LTX_A2V_LOG_FORMAT": settings.log_format}


def _beat_seconds(settings: ServerSettings) -> float:
    return min(limit(settings.worker_silence) / BEATS_PER_SILENCE, MAX_BEAT_SECONDS)


def limit(text: str) -> float:
    """Seconds; 0 and anything negative are no limit."""
    return parse_duration(text) or NEVER
