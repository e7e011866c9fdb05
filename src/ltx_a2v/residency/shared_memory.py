"""Copies of one network's pieces in memory that several processes map, so that a machine holds each copy once.

The memory is an anonymous file (memfd), which Linux frees when the last process that has it open ends, however it ends.
Its first page has a byte per piece: whether the copy is complete. Whoever needs a copy first fills it, while the others
wait for a lock; the lock of a process that dies is free again, and its piece is filled by the next one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ltx_a2v.residency.piece import Piece

COMPLETE = b"\1"
HEADER = mmap.PAGESIZE


class SharedMemory:
    """The copies of one network. All processes lay out the same pieces."""

    def __init__(self, fd: int) -> None:
        """`fd`: of `memory_file`, possibly inherited. It is opened again, for a lock of this process's own."""
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._places: dict[str, tuple[int, int]] = {}

    def lay_out(self, pieces: Sequence[Piece]) -> None:
        offset = HEADER
        for index, piece in enumerate(pieces):
            self._places[piece.name] = index, offset
            offset += -(-max(piece.nbytes, 1) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        assert len(pieces) <= HEADER
        if os.fstat(self._fd).st_size < offset:
            os.ftruncate(self._fd, offset)  # takes no memory until a page is touched

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
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            missing = not self.is_complete(piece)
            yield missing
            if missing:
                os.pwrite(self._fd, COMPLETE, self._places[piece.name][0])
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
