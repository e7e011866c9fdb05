"""Exchanges predictions between the processes of one clip: NCCL between GPUs, gloo through host memory.

In each step every process first says how it stands: its prediction is ready, or it stops, or it failed. Only where all
are ready are the predictions exchanged. So no process waits for one that has left, and all leave in the same step.

The process groups are objects of this room, not torch's global ones, which belong to the caller's program. Waiting
polls, so that a signal is answered and the caller can look after the other processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

dist: Any = torch.distributed  # the classes used here have no types

BACKEND = "LTX_A2V_EXCHANGE"
"""An environment variable: `gloo` exchanges through host memory between GPUs too."""
CONNECT_SECONDS = 60
POLL_SECONDS = 1e-4
Fields = TypeVar("Fields")
FOREVER = timedelta(days=30)
"""Whoever waits decides how long (`check`)."""


class Standing(IntEnum):
    """How a process stands at a step."""

    READY = 0
    STOPPED = 1
    """Rank 0 was cancelled, or failed in a way that it reports itself."""
    OUT_OF_MEMORY = 2
    FAILED = 3


class Exchange:
    """The connection of one process with all others, who make theirs at the same time."""

    def __init__(self, folder: Path, rank: int, count: int, device: torch.device, check: Callable[[], None]) -> None:
        """`folder`: an empty one, the same for all, which must stay. `check` is called while waiting; it raises to stop
        that. Raises `RuntimeError` where the connection cannot be made."""
        self._count = count
        self._device = device
        self._check = check
        store = dist.FileStore(str(folder / "store"), count)
        store.set_timeout(timedelta(seconds=CONNECT_SECONDS))
        self._host = _gloo(store, rank, count)
        self._direct = _nccl(store, rank, count) if uses_nccl(device) else None
        self.gather(torch.zeros(1, device=device))  # NCCL connects, and takes its memory, when it is first used

    def standings(self, own: Standing) -> list[Standing]:
        """Of all processes, by rank."""
        return [Standing(int(each)) for each in self._gather(self._host, torch.tensor([int(own)]))]

    def gather(self, own: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank; all of one shape."""
        if self._direct is not None:
            return self._gather(self._direct, own.contiguous())
        return [each.to(self._device) for each in self._gather(self._host, own.cpu().contiguous())]

    def close(self) -> None:
        """End what is under way; the other processes then fail in what they wait for."""
        for group in (self._direct, self._host):
            if group is not None:
                group.abort()

    def _gather(self, group: Any, own: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(own) for _ in range(self._count)]
        work = group.allgather([gathered], [own])
        while not work.is_completed():
            self._check()
            time.sleep(POLL_SECONDS)
        work.wait()
        return gathered


def moved(value: Fields, device: torch.device) -> Fields:
    """A dataclass with its tensors on `device`."""
    given = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    tensors = {name: part.to(device) for name, part in given.items() if isinstance(part, Tensor)}
    return replace(value, **tensors)  # type: ignore[type-var]


def uses_nccl(device: torch.device) -> bool:
    return device.type == "cuda" and dist.is_nccl_available() and os.environ.get(BACKEND) != "gloo"


def _gloo(store: Any, rank: int, count: int) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = FOREVER
    options._threads = 1
    return dist.ProcessGroupGloo(dist.PrefixStore("host", store), rank, count, options)


def _nccl(store: Any, rank: int, count: int) -> Any:
    """With one channel, which is plenty for a megabyte a step and takes little device memory."""
    for name in ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING", "NCCL_NVLS_ENABLE"):
        os.environ.setdefault(name, "0")  # torch would end this process where another one fails
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = FOREVER
    options.config.min_ctas = options.config.max_ctas = 1
    return dist.ProcessGroupNCCL(dist.PrefixStore("direct", store), rank, count, options)
