"""Connections: uvicorn's HTTP/1.1 protocol with the deadlines and the cap that it lacks.

A client must send the head of a request, and then its whole body, in time. When the cap is reached, a new connection
replaces the oldest one that waits for a head, or one that sends its body at a trickle; where all are busy, the new one
is answered 503.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import parse_duration

BACKLOG = 128
"""Connections that the kernel holds before they are accepted. asyncio accepts as many in one turn of its loop."""

LINGER_SECONDS = 5.0
"""How long a client may go on sending a body that has been answered already."""

STALLED_SECONDS = 120.0
"""How long a client may read nothing of a reply."""

TRICKLE = 10_000
"""Bytes per second: a client that sends its body slower than that, for longer than a head may take, can be replaced."""

SPARE_DESCRIPTORS = 64
"""The database, the worker, the log and asyncio's own."""

_REFUSALS = {
    408: b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\nConnection: close\r\n\r\n",
}


@dataclass(frozen=True)
class Bounds:
    """Of all connections together, and of each."""

    connections: int
    head_seconds: float
    body_seconds: float

    @classmethod
    def of(cls, settings: ServerSettings) -> Bounds:
        """A connection needs up to two descriptors: its socket and the file that it receives or sends."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(
            connections=max(8, min(settings.max_connections, (descriptors - SPARE_DESCRIPTORS) // 2)),
            head_seconds=parse_duration(settings.head_timeout),
            body_seconds=parse_duration(settings.upload_timeout),
        )

    @property
    def backlog(self) -> int:
        return min(BACKLOG, self.connections)


class BoundedHttp(H11Protocol):
    """One connection. `functools.partial(BoundedHttp, bounds)` is what uvicorn's `http` option takes."""

    def __init__(self, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds = bounds
        self._opened_at = time.monotonic()
        self._stage: object = None
        self._stage_began = self._opened_at
        self._received = 0
        """Bytes in this stage."""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # -- asyncio's and uvicorn's hooks -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -- the cap -----------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        others = [cast(BoundedHttp, other) for other in self.connections if other is not self]
        open_ = [other for other in others if not other.transport.is_closing()]
        if len(open_) < self._bounds.connections:
            return
        idle = [other for other in open_ if other.waits_for_head] or [other for other in open_ if other.trickles]
        if idle:
            min(idle, key=lambda other: other._opened_at).transport.abort()
        else:
            self._refuse(503)

    @property
    def waits_for_head(self) -> bool:
        """Whether it can be closed without loss: no request has begun, or its head is incomplete."""
        return self.conn.their_state is h11.IDLE

    @property
    def trickles(self) -> bool:
        """Whether it has sent its body slowly for a while."""
        seconds = time.monotonic() - self._stage_began
        slow = seconds > self._bounds.head_seconds and self._received < TRICKLE * seconds
        return slow and self.conn.their_state is h11.SEND_BODY

    # -- the deadlines -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the deadline of the current stage of the connection; sending data does not extend it."""
        answered = self.cycle is not None and self.cycle.response_complete
        stage = (self.conn.their_state, self.cycle, answered)
        if stage == self._stage:
            return
        self._stage, self._stage_began, self._received = stage, time.monotonic(), 0
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE:
            self._deadline = self.loop.call_later(self._bounds.head_seconds, self._refuse, 408)
        elif self.conn.their_state is h11.SEND_BODY:
            # the routes that read a body answer 408 themselves, a moment before this
            seconds = LINGER_SECONDS if answered else self._bounds.body_seconds + LINGER_SECONDS
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _refuse(self, status: int) -> None:
        """Answer and close; a client that has sent nothing is closed without a 408."""
        if self.transport.is_closing():
            return
        if status == 503 or self.conn.trailing_data[0]:
            self.transport.write(_REFUSALS[status])
        self.transport.close()
