"""What the process of a pipeline and its helpers say to each other, pickled, over a socket that only they have.

to a helper      Opening (once) · Job · StageWork · End · Release · the socket's end: exit
from a helper    Opened · Prepared (of a Job) · Ended · Released · an `A2VError`, instead of any of them
"""

from __future__ import annotations

import mmap
import pickle
import struct
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from ltx_a2v.checkpoint.paths import ModelPaths
    from ltx_a2v.fitting import VideoShape
    from ltx_a2v.planning.plan import Keep
    from ltx_a2v.settings.loading import LoadOptions

BEAT_SECONDS = 0.5


@dataclass(frozen=True)
class Opening:
    """The model to open, and the connection to make after `Opened`."""

    paths: ModelPaths
    device: str
    dtype: torch.dtype
    options: LoadOptions
    rank: int
    count: int
    folder: Path
    """Of the exchange."""
    threads: int
    """Of torch on a CPU: another number would give other bits."""


@dataclass(frozen=True)
class Job:
    """A video to help with: make a plan for it, then load the weights."""

    shape: VideoShape
    keep: Keep
    budget: int | None
    """Of rank 0's plan; where it depends on the device, a helper resolves its own."""
    resident_blocks: int | None
    """Of rank 0's transformer: the copies in host memory are then the same ones."""
    smaller: bool
    """After memory ran out in any of the processes."""


@dataclass(frozen=True)
class End:
    """The video is made, or will not be: free what is not kept."""


@dataclass(frozen=True)
class Release:
    """As `A2VPipeline.release`."""

    to: Literal["host", "nothing"]


@dataclass(frozen=True)
class Opened:
    """Every file was checked."""


@dataclass(frozen=True)
class Prepared:
    """The plan in one line. Weights are read from now on."""

    plan: str


@dataclass(frozen=True)
class Ended:
    """Peak of device memory of the job's steps, in GiB."""

    peak_gib: float


@dataclass(frozen=True)
class Released:
    """The memory is free."""


def send(connection: Connection, message: Any) -> None:
    """Raises `OSError` where the other process has ended."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """Raises `EOFError` or `OSError` where the other process has ended."""
    return pickle.loads(connection.recv_bytes())


class Heartbeat:
    """When a helper's thread was last seen running: a time in memory that both processes map."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)

    def beat(self) -> None:
        struct.pack_into("d", self._memory, 0, time.monotonic())

    @property
    def seconds_ago(self) -> float:
        return time.monotonic() - float(struct.unpack_from("d", self._memory)[0])
