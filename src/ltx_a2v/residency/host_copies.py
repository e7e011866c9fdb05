"""Copies of pieces in (pinned) host memory, which are copied to the device at the full speed of the bus."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import torch
from torch import Tensor

from ltx_a2v.errors import OutOfMemory
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.loader import Source
from ltx_a2v.residency.piece import Piece

PREPARING_THREADS = 4


class HostCopies:
    """A `Source` that keeps a copy of each piece when it is first fetched from `files`, and then fetches from the copy.

    Threads allocate and pin the memory in advance: first-touch page faults cost more than the read (on the host of an
    H100 one thread pins 1.65 GB/s and several 6 GB/s, while files are read at 14 GB/s).
    """

    def __init__(self, files: Source, device: torch.device) -> None:
        self._files = files
        self._device = device
        self._copies: dict[str, HostBuffer] = {}
        self._prepared: dict[str, Future[HostBuffer]] = {}

    def copying(self, pieces: Sequence[Piece]) -> HostCopies:
        """Copy these when they are next fetched, in about this order. Other pieces are fetched from their copy where
        there is one, else from the file."""
        names = {piece.name for piece in pieces}
        if not self._prepared.keys() <= names:
            self.drop_prepared()
        wanted = [piece for piece in pieces if piece.name not in self._copies and piece.name not in self._prepared]
        if wanted:
            pool = ThreadPoolExecutor(min(PREPARING_THREADS, len(wanted)), "host-memory")
            self._prepared |= {piece.name: pool.submit(self._prepare, piece.nbytes) for piece in wanted}
            pool.shutdown(wait=False)  # the threads end when all memory is prepared
        return self

    @property
    def nbytes(self) -> int:
        return sum(copy.flat.numel() for copy in self._copies.values())

    def has(self, piece: Piece) -> bool:
        return piece.name in self._copies

    def fill(self, piece: Piece) -> None:
        """Fill the copy of a piece that `copying` announced from its files, without the device.

        Raises what reading the file raises, and `OutOfMemory` where host memory is short.
        """
        copy = self._prepared[piece.name].result()
        self._files.fetch(piece, copy.flat)
        self._copies[piece.name] = copy
        del self._prepared[piece.name]

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        """Raises what reading the file raises, and `OutOfMemory` where host memory is short."""
        if piece.name in self._copies:
            flat[: piece.nbytes].copy_(self._copies[piece.name].flat, non_blocking=True)
            return
        self._files.fetch(piece, flat)
        if piece.name in self._prepared:
            copy = self._prepared.pop(piece.name).result()
            copy.flat.copy_(flat[: piece.nbytes], non_blocking=True)
            self._copies[piece.name] = copy

    def drop_prepared(self) -> None:
        """Free the memory allocated for pieces that have not been fetched."""
        unfinished = [future for future in self._prepared.values() if not future.cancel()]
        self._prepared = {}
        for future in unfinished:
            if future.exception() is None:
                future.result().release()

    def release(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # copies may be under way
        self.drop_prepared()
        for copy in self._copies.values():
            copy.release()
        self._copies.clear()

    def _prepare(self, nbytes: int) -> HostBuffer:
        if self._device.type != "cuda":
            return HostBuffer(nbytes, pinned=False)
        with torch.cuda.device(self._device):
            return HostBuffer(nbytes, pinned=True)


class HostBuffer:
    """Page-aligned host memory of exactly the requested size, registered with CUDA where `pinned`.

    torch's own pinned allocator rounds up to powers of two, which would cost up to twice a block.
    """

    def __init__(self, nbytes: int, pinned: bool) -> None:
        try:
            self._memory = mmap.mmap(-1, max(nbytes, 1))
        except OSError as error:
            raise OutOfMemory(
                f"{nbytes / 2**30:.2f} GiB more host memory could not be allocated; stream from the file instead."
            ) from error
        with on_host():
            self.flat: Tensor = torch.frombuffer(self._memory, dtype=torch.uint8)[:nbytes]
        self._registered = 0
        if pinned and nbytes:
            self._touch_pages()
            self._register()

    def _touch_pages(self) -> None:
        """Else CUDA faults them in one by one while it pins, under a lock that stops all launches."""
        with suppress(AttributeError, OSError):  # not Linux, or a kernel without large pages
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.flat[:: mmap.PAGESIZE].fill_(0)

    def _register(self) -> None:
        address = self.flat.data_ptr()
        error = torch.cuda.cudart().cudaHostRegister(address, len(self._memory), 0)
        if int(error) != 0:
            raise OutOfMemory(
                f"CUDA could not pin {len(self._memory) / 2**30:.2f} GiB of host memory (error {int(error)}); "
                "stream from the file instead."
            )
        self._registered = address

    def release(self) -> None:
        if self._registered:
            torch.cuda.cudart().cudaHostUnregister(self._registered)
            self._registered = 0
        self.flat = torch.empty(0, dtype=torch.uint8)
