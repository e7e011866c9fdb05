"""Chooses the form of a kernel, Triton or plain, for a tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ltx_a2v.errors import OutOfMemory

SWITCH = "LTX_A2V_FUSED"
"""An environment variable: `0` leaves everything to torch, to compare."""
CAPABILITY = (8, 9)
"""The oldest GPUs whose Triton reads e4m3 (Ada); older ones take the plain forms."""

_planned: ContextVar[torch.device | None] = ContextVar("_planned", default=None)


def fused_on(x: Tensor) -> bool:
    """Whether `x` goes through a Triton kernel; on `meta`, whether it would on the device that is planned for."""
    return fused(x.device, x.dtype)


def fused(device: torch.device, dtype: torch.dtype) -> bool:
    device = device_of(device)
    return device.type == "cuda" and dtype == torch.bfloat16 and problem(device) is None


def device_of(device: torch.device) -> torch.device:
    """`device`; for `meta`, the device that is planned for."""
    return _planned.get() or device if device.type == "meta" else device


@contextmanager
def planned_for(device: torch.device) -> Iterator[None]:
    """Within this context, tensors on `meta` use the form that they would use on `device`."""
    token = _planned.set(device)
    try:
        yield
    finally:
        _planned.reset(token)


@cache
def problem(device: torch.device) -> str | None:
    """Why the kernels cannot be used on a GPU, in a few words; None where they can. Compiles one to find out.

    Raises `OutOfMemory` where the device has no memory left; this result is not cached.
    """
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"compute capability {'.'.join(map(str, capability))} is below {'.'.join(map(str, CAPABILITY))}"
    try:
        x = torch.zeros(1, 1, 16, dtype=torch.bfloat16, device=device)
        triton_kernels().add_gated(x, x, x[:, :, None])
    except Exception as error:  # no Triton, no C compiler, no Python headers: the errors differ by machine
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in reason:  # Triton's own
            raise OutOfMemory(f"{device} has no memory left for its kernels; free some and try again.") from error
        return reason
    return None


def triton_kernels() -> Any:
    """Imported late: Triton is no part of torch for CPUs."""
    from ltx_a2v.kernels import triton_kernels

    return triton_kernels
