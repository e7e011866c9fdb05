"""Where a wav file ends: FFmpeg would read what follows it chunk by chunk, a second for each MB of zeros."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

UNKNOWN_SIZES = (0, 0xFFFF_FFFF)
"""Written by programs that cannot go back to the header."""
MAX_CHUNKS = 64
"""Before the sound."""


def cut_to_riff(file: BinaryIO) -> BinaryIO:
    """`file` without what follows the RIFF structure, where that is sound and complete; else `file` itself, at its
    start."""
    end = _end_of_wav(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return file if end is None or end >= size else io.BufferedReader(_Beginning(file, end))


def _end_of_wav(file: BinaryIO) -> int | None:
    """None where it is no wav, or where its header does not say the sizes."""
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    (size,) = struct.unpack("<I", head[4:8])
    place, end = 12, 8 + size
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if name == b"data":
            complete = length not in UNKNOWN_SIZES and place + 8 + length <= end
            return end if complete and size not in UNKNOWN_SIZES else None
        place += 8 + length + length % 2
    return None


class _Beginning(io.RawIOBase):
    """The first `size` bytes of a file, which it closes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._file.read(max(0, min(len(buffer), self._size - self._file.tell())))
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def close(self) -> None:
        self._file.close()
        super().close()
