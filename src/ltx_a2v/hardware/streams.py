"""CUDA streams that do not collide, and waiting for a device.

torch gives streams from a pool of 32 per device, in turn: after 32 more, a new stream is one that is in use already.
A copy on the stream that is being captured would become part of the graph. So that stream is reserved.
"""

from __future__ import annotations

from functools import cache

import torch


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


def wait(device: torch.device) -> None:
    """Until the device has finished; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
