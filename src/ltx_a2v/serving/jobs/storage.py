"""Tests whether the server's folders can be written to, and words the errors where they cannot."""

from __future__ import annotations

import errno
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ltx_a2v.errors import StorageFailed

FULL = errno.ENOSPC
UNREACHABLE = "storage_unreachable"
"""The code of a `StorageFailed` of a database or an object store that does not answer."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PROBE_BYTES = 2**16
"""More than a file system keeps inside its inodes, so that a full disk shows."""
PROBE_SECONDS = 5.0


def storage_failed(what: str, number: int | None) -> StorageFailed:
    """The error for `what` (a clause) by the system's error number."""
    if number in _FULL:
        error = StorageFailed(f"{what}: the server's disk is full; make room, or lower --keep-outputs.")
        error.code, error.http_status = "storage_full", 507
        return error
    return StorageFailed(f"{what}: the server's folder refuses it; check its mount and its permissions.")


def refuses_writing(error: BaseException) -> bool:
    """Whether the error can only come from writing: a full or read-only disk."""
    return isinstance(error, OSError) and error.errno in (*_FULL, errno.EROFS)


class StorageProbe:
    """Writes a file to each folder when asked, at most every few seconds, then asks `beyond`. Thread-safe."""

    def __init__(
        self,
        *folders: Path,
        beyond: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = folders
        self._beyond = beyond
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Why no job can be kept, as one sentence for the operator; None where all is well."""
        with self._lock:
            if self._asked_at is None or self._clock() - self._asked_at >= PROBE_SECONDS:
                self._problem = next(filter(None, map(_refusal, self._folders)), None) or self._beyond()
                self._asked_at = self._clock()
            return self._problem


def _refusal(folder: Path) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=folder, buffering=0) as file:
            file.write(b"\0" * PROBE_BYTES)
    except OSError as error:
        return str(storage_failed("The output or state folder cannot be written", error.errno))
    return None
