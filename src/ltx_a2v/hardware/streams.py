"""CUDA streams that do not collide, the current device, and waiting for a device.

torch gives streams from a pool of 32 per device, in turn: after 32 more, a new stream is one that is in use already.
A copy on the stream that is being captured would become part of the graph. So that stream is reserved.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which graphs are captured: one per process, as cuBLAS keeps a workspace for every stream."""
    return torch.cuda.Stream(device)


def side_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream for copies; never the one on which graphs are captured."""
    reserved = capture_stream(device)
    while (stream := torch.cuda.Stream(device)) == reserved:
        pass
    return stream


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Within this context, `device` is the current GPU of the thread. CUDA's own functions, and libraries that launch
    kernels themselves, use the current one: on another one they would open a context of some 500 MB first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def each_on_device(items: Generator[Item], device: torch.device) -> Generator[Item]:
    """The same items, each made within `on_device`; the caller has its own current device in between."""
    try:
        while True:
            with on_device(device):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        with on_device(device):
            items.close()


def wait(device: torch.device) -> None:
    """Until the device has finished; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
