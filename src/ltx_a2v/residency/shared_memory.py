"""Copies of one network's pieces in memory that several processes map, so that a machine holds each copy once.

The memory is an anonymous file (memfd), which Linux frees when the last process that has it open ends, however it ends.
Its first page has a byte per piece, whether the copy is complete, and at its end a digest of what the copies are of.
Whoever needs a copy first fills it, while the others wait for a lock. The lock of a process that dies is free again,
and the next one fills its piece.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltx_a2v.residency.piece import Piece  # imports torch, which the server does not

COMPLETE = b"\1"
HEADER = mmap.PAGESIZE
KEY = hashlib.sha256().digest_size
KEY_AT = HEADER - KEY


class SharedMemory:
    """The copies of one network."""

    def __init__(self, fd: int, origin: str = "") -> None:
        """`fd`: of `memory_file`, possibly inherited. It is opened again, for a lock of this process's own. `origin`:
        what the pieces are read from, where processes may differ in it."""
        self._origin = origin
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._places: dict[str, tuple[int, int]] = {}

    def lay_out(self, pieces: Sequence[Piece]) -> bool:
        """False where another process keeps other pieces here, or of another origin: then this one cannot."""
        offset = HEADER
        for index, piece in enumerate(pieces):
            self._places[piece.name] = index, offset
            offset += -(-max(piece.nbytes, 1) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        assert len(pieces) <= KEY_AT
        if not self._is_of(pieces):
            return False
        if os.fstat(self._fd).st_size < offset:
            os.ftruncate(self._fd, offset)  # takes no memory until a page is touched
        return True

    def _is_of(self, pieces: Sequence[Piece]) -> bool:
        """Whether the memory holds these pieces; they are the ones where nobody has any here yet."""
        content = repr((self._origin, [(piece.name, piece.layout) for piece in pieces]))
        key = hashlib.sha256(content.encode()).digest()
        with self._locked():
            present = os.pread(self._fd, KEY, KEY_AT)
            if present.strip(b"\0"):
                return present == key
            os.pwrite(self._fd, key, KEY_AT)
            return True

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the copies take, of whichever process."""
        return os.fstat(self._fd).st_blocks * 512

    def map(self, piece: Piece) -> mmap.mmap:
        return mmap.mmap(self._fd, max(piece.nbytes, 1), offset=self._places[piece.name][1])

    def is_complete(self, piece: Piece) -> bool:
        return os.pread(self._fd, 1, self._places[piece.name][0]) == COMPLETE

    @contextmanager
    def filling(self, piece: Piece) -> Iterator[bool]:
        """Whether the caller has to fill the piece, now that nobody else does; it is then complete at the end."""
        with self._locked():
            missing = not self.is_complete(piece)
            yield missing
            if missing:
                os.pwrite(self._fd, COMPLETE, self._places[piece.name][0])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def clear(self) -> None:
        """Free all memory. No process may have a piece mapped."""
        size = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        os.close(self._fd)


def memory_file() -> int | None:
    """A new anonymous file, to be inherited by other processes; None where the system has none."""
    return os.memfd_create("ltx-a2v host copies") if hasattr(os, "memfd_create") else None
