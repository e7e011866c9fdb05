"""Describes an exception to the server: the error of the product, and whether the device's state is in doubt."""

from __future__ import annotations

import logging
import re
from typing import Any

from ltx_a2v.errors import A2VError, InvalidOutput, OutOfMemory
from ltx_a2v.serving.jobs.storage import refuses_writing, storage_failed

log = logging.getLogger(__name__)

_DEVICE_ERROR = re.compile(
    r"\b(CUDA|cuda|CUBLAS|CUDNN|CUSOLVER|CUFFT|NCCL|HIP) ?(error|_STATUS|_ERROR)|device-side assert"
)
_DEVICE_ERROR_TYPES = ("OutOfMemoryError", "AcceleratorError")
"""torch's error types, by name, as torch is not imported here."""


def described(error: Exception) -> dict[str, Any]:
    """The fields for `errors.from_json`, and `tainted`: the device's state is in doubt.

    An unexpected error is logged with its traceback; its message begins with its type.
    """
    ours = error if isinstance(error, A2VError) and not isinstance(error, InvalidOutput) else _as_ours(error)
    return {**ours.as_json(), "tainted": taints_device(error)}


def taints_device(error: Exception) -> bool:
    """Whether the next job needs a fresh process: after a device error, or to give back memory that ran out."""
    if isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ in _DEVICE_ERROR_TYPES:
        return True
    return not isinstance(error, A2VError) and _DEVICE_ERROR.search(str(error)) is not None


def _as_ours(error: Exception) -> A2VError:
    if isinstance(error, InvalidOutput):  # the folder is the server's, so the client is not to blame
        return storage_failed("The video cannot be written", getattr(error.__cause__, "errno", None))
    if refuses_writing(error):
        return storage_failed("The video cannot be written", getattr(error, "errno", None))
    log.error("unexpected %s", type(error).__name__, exc_info=error, extra={"tag": "worker"})
    if type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(f"The device ran out of memory: {_first_line(error)}")
    if isinstance(error, MemoryError):
        return OutOfMemory("The host ran out of memory.")
    return A2VError(f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:500]
