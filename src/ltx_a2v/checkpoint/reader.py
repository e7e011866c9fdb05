"""Reads tensors from files, with several threads that read ahead of the caller. Files are not mapped.

Pages of a mapped file count as memory of the process until the mapping ends; the memory of a tensor that was read is
freed with the tensor. `stream_tensors` divides the files into chunks and keeps a fixed number of them in flight:

    a chunk is read by one thread, in one call: a part of a large tensor, or several small adjacent ones
    chunks are processed in file order; a tensor is yielded when its last chunk has been read
    the next chunk is requested before a tensor is yielded, so that reading overlaps with the caller's work

On the CPU a chunk is read straight into its tensors. For CUDA it is read into one of a ring of pinned slots and copied
to the device from there; a slot is read into again only after its copy has finished.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ltx_a2v.checkpoint.safetensors_file import TensorEntry, check_unchanged
from ltx_a2v.errors import InvalidModel
from ltx_a2v.settings.defaults import READ_CHUNK_BYTES, READ_THREADS

CPU = torch.device("cpu")
MAX_BUFFERS = 1024
"""Buffers that one read call can fill (Linux: IOV_MAX)."""


def read_bytes(entry: TensorEntry, into: Tensor) -> None:
    """Fill `into` (uint8 [nbytes], on the CPU) with the tensor's bytes. Raises `InvalidModel`."""
    _read(entry.path, entry.offset, [_memory(into)])


def read_tensor(entry: TensorEntry) -> Tensor:
    """The tensor in the file's dtype, on the CPU. Raises `InvalidModel`."""
    check_unchanged([entry])
    raw = torch.empty(entry.nbytes, dtype=torch.uint8)
    read_bytes(entry, raw)
    return _typed(raw, entry)


def read_through(entries: Iterable[TensorEntry], stopped: Callable[[], bool]) -> int:
    """Read the tensors and keep nothing, so that they are in the page cache; returns the bytes read.

    One read at a time: readers that are waited for have several under way and go ahead of it. Raises `InvalidModel`.
    """
    buffer, count = torch.empty(READ_CHUNK_BYTES, dtype=torch.uint8), 0
    items = sorted(((entry.name, entry) for entry in entries), key=_by_place)
    for chunk in _chunks(_ranges(items)):
        if stopped():
            break
        nbytes = chunk[-1].end - chunk[0].begin
        _read(chunk[0].entry.path, chunk[0].begin, [_memory(buffer[:nbytes])])
        count += nbytes
    return count


def stream_tensors(
    entries: Mapping[str, TensorEntry], device: torch.device = CPU, *, threads: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its given name, in the order of the files, on `device` and in the file's dtype.

    A tensor belongs to the caller. In addition, at most two chunks per thread and the tensor that they complete are in
    memory. On CUDA, tensors are ready on the stream that was current when the first was requested. Raises
    `InvalidModel` for a file that was replaced, ends early or cannot be read. Closing the iterator stops the threads.
    """
    check_unchanged(entries.values())
    threads = threads or READ_THREADS
    ahead = 2 * threads
    landing: _Landing = _CudaLanding(device, slots=ahead + 1) if device.type == "cuda" else _HostLanding(device)
    chunks = _chunks(_ranges(sorted(entries.items(), key=_by_place)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-tensors")
    in_flight: deque[tuple[_Chunk, Future[None]]] = deque()

    def ask_for(count: int) -> None:
        for chunk in islice(chunks, count):
            in_flight.append((chunk, pool.submit(_read, chunk[0].entry.path, chunk[0].begin, landing.buffers(chunk))))

    try:
        ask_for(ahead)
        while in_flight:
            chunk, read = in_flight.popleft()
            read.result()
            complete = landing.take(chunk)
            ask_for(1)
            while complete:
                yield complete.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Range:
    """Bytes `start` to `stop` of a tensor."""

    name: str
    entry: TensorEntry
    start: int
    stop: int

    @property
    def begin(self) -> int:
        """Its place in the file, and `end` likewise."""
        return self.entry.offset + self.start

    @property
    def end(self) -> int:
        return self.entry.offset + self.stop

    @property
    def completes(self) -> bool:
        return self.stop == self.entry.nbytes


_Chunk = list[_Range]
"""Ranges that are adjacent in one file, `READ_CHUNK_BYTES` together at most."""


def _by_place(item: tuple[str, TensorEntry]) -> tuple[Path, int, int]:
    return item[1].path, item[1].offset, item[1].nbytes


def _ranges(items: Iterable[tuple[str, TensorEntry]]) -> Iterator[_Range]:
    for name, entry in items:
        for start in range(0, max(entry.nbytes, 1), READ_CHUNK_BYTES):
            yield _Range(name, entry, start, min(start + READ_CHUNK_BYTES, entry.nbytes))


def _chunks(parts: Iterable[_Range]) -> Iterator[_Chunk]:
    chunk: _Chunk = []
    for part in parts:
        if chunk and not _belongs(chunk, part):
            yield chunk
            chunk = []
        chunk.append(part)
    if chunk:
        yield chunk


def _belongs(chunk: _Chunk, part: _Range) -> bool:
    adjacent = part.entry.path == chunk[-1].entry.path and part.begin == chunk[-1].end
    return adjacent and part.end - chunk[0].begin <= READ_CHUNK_BYTES and len(chunk) < MAX_BUFFERS


class _Landing(Protocol):
    """The destination of chunks, and their conversion to tensors. Both are called for every chunk, in order."""

    def buffers(self, chunk: _Chunk) -> list[memoryview]: ...

    def take(self, chunk: _Chunk) -> deque[tuple[str, Tensor]]:
        """The tensors that are complete now that the chunk has been read."""


class _HostLanding:
    """Chunks are read straight into their tensors."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._raw: dict[str, Tensor] = {}

    def buffers(self, chunk: _Chunk) -> list[memoryview]:
        for part in chunk:
            if part.start == 0:
                self._raw[part.name] = torch.empty(part.entry.nbytes, dtype=torch.uint8)
        return [_memory(self._raw[part.name][part.start : part.stop]) for part in chunk]

    def take(self, chunk: _Chunk) -> deque[tuple[str, Tensor]]:
        done = (part for part in chunk if part.completes)
        return deque((part.name, _typed(self._raw.pop(part.name), part.entry).to(self._device)) for part in done)


class _CudaLanding:
    """Chunks are read into pinned slots, in turn, and copied from there.

    Copies run on the caller's stream, so later work of the caller is ordered after them, and memory that the caller
    frees is reused in order. A separate stream would gain nothing, since a disk is slower than the bus.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._stream = torch.cuda.current_stream(device)
        pinned = (torch.empty(READ_CHUNK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(slots))
        self._free = deque((slot, torch.cuda.Event()) for slot in pinned)
        self._reading: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._raw: dict[str, Tensor] = {}

    def buffers(self, chunk: _Chunk) -> list[memoryview]:
        slot, copied = self._free.popleft()
        copied.synchronize()
        self._reading.append((slot, copied))
        return [_memory(slot[: chunk[-1].end - chunk[0].begin])]

    def take(self, chunk: _Chunk) -> deque[tuple[str, Tensor]]:
        slot, copied = self._reading.popleft()
        with torch.cuda.stream(self._stream):
            for part in chunk:
                self._copy(part, slot[part.begin - chunk[0].begin : part.end - chunk[0].begin])
            copied.record(self._stream)
        self._free.append((slot, copied))
        return deque((part.name, _typed(self._raw.pop(part.name), part.entry)) for part in chunk if part.completes)

    def _copy(self, part: _Range, source: Tensor) -> None:
        if part.start == 0:
            self._raw[part.name] = torch.empty(part.entry.nbytes, dtype=torch.uint8, device=self._device)
        self._raw[part.name][part.start : part.stop].copy_(source, non_blocking=True)


def _memory(raw: Tensor) -> memoryview:
    return memoryview(raw.numpy().data)


def _typed(raw: Tensor, entry: TensorEntry) -> Tensor:
    return raw.view(entry.dtype).view(entry.shape)


def read_rows(entry: TensorEntry, rows: Sequence[int]) -> Tensor:
    """Some rows of a matrix, [len(rows), columns]; each distinct row is read once."""
    size = entry.nbytes // entry.shape[0]
    read: dict[int, Tensor] = {}
    for row in sorted(set(rows)):
        part = replace(entry, shape=entry.shape[1:], offset=entry.offset + row * size, nbytes=size)
        read[row] = read_tensor(part)
    return torch.stack([read[row] for row in rows])


def _read(path: Path, offset: int, buffers: list[memoryview]) -> None:
    """Fill the buffers, in order, with the bytes of the file from `offset` on."""
    buffers = [buffer for buffer in buffers if buffer.nbytes]
    try:
        with path.open("rb", buffering=0) as file:
            while buffers:
                count = os.preadv(file.fileno(), buffers, offset)
                if count == 0:
                    raise InvalidModel(
                        f"{path} ended at {offset:,} bytes while it was read; was it replaced meanwhile?"
                    )
                offset, buffers = offset + count, _unfilled(buffers, count)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def _unfilled(buffers: list[memoryview], count: int) -> list[memoryview]:
    """The buffers without their first `count` bytes."""
    for index, buffer in enumerate(buffers):
        if count < buffer.nbytes:
            return [buffer[count:], *buffers[index + 1 :]]
        count -= buffer.nbytes
    return []
