"""The XMP packet in an mp4: a box of its own at the end of the file, where it moves nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

XMP = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
"""The uuid of XMP in ISO base media files (XMP specification, part 3)."""
LARGEST_PACKET = 2**20
_MOST_BOXES = 1000


def append_xmp(file: Path, packet: bytes) -> None:
    with file.open("ab") as out:
        out.write(struct.pack(">I4s", 8 + len(XMP) + len(packet), b"uuid") + XMP + packet)


def read_xmp(file: BinaryIO) -> bytes | None:
    """The packet, or None where the file has none that can be read."""
    for kind, begin, size in _boxes(file):
        if kind == b"uuid" and len(XMP) <= size <= LARGEST_PACKET:
            file.seek(begin)
            content = file.read(size)
            if content.startswith(XMP):
                return content[len(XMP) :]
    return None


def is_mp4(file: BinaryIO) -> bool:
    """By its first box."""
    file.seek(4)
    return file.read(4) == b"ftyp"


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and size of each outermost box's content, up to one that is no box."""
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        start = 8
        if size == 1 and len(head) == 16:
            (size,), start = struct.unpack(">Q", head[8:]), 16
        if size < start:  # 0: up to the end of the file
            return
        yield kind, place + start, size - start
        place += size
