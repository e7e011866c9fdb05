"""Copies of pieces in (pinned) host memory, which are copied to the device at the full speed of the bus."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from torch import Tensor

from ltx_a2v.errors import OutOfMemory
from ltx_a2v.hardware.streams import on_device
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.loader import Source
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.shared_memory import SharedMemory

PREPARING_THREADS = 4


class HostCopies:
    """A `Source` that keeps a copy of each piece when it is first fetched from `files`, and then fetches from the copy.

    Threads allocate and pin the memory in advance: first-touch page faults cost more than the read (on the host of an
    H100 one thread pins 1.65 GB/s and several 6 GB/s, while files are read at 14 GB/s).
    """

    def __init__(self, files: Source, device: torch.device, shared: SharedMemory | None = None) -> None:
        """`shared`: memory for the copies that other processes fill and use too."""
        self._files = files
        self._device = device
        self._shared = shared
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
            self._prepared |= {piece.name: pool.submit(self._prepare, piece) for piece in wanted}
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
        with self._filling(piece) as missing:
            if missing:
                self._files.fetch(piece, copy.flat)
        self._copies[piece.name] = copy
        del self._prepared[piece.name]

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        """Raises what reading the file raises, and `OutOfMemory` where host memory is short."""
        if piece.name in self._copies:
            flat[: piece.nbytes].copy_(self._copies[piece.name].flat, non_blocking=True)
        elif piece.name in self._prepared:
            self._fetch_and_copy(piece, flat)
        else:
            self._files.fetch(piece, flat)

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

    def _fetch_and_copy(self, piece: Piece, flat: Tensor) -> None:
        with self._filling(piece) as missing:
            if missing:
                self._files.fetch(piece, flat)
            copy = self._prepared.pop(piece.name).result()
            if missing:
                copy.flat.copy_(flat[: piece.nbytes], non_blocking=True)
                if self._shared is not None and self._device.type == "cuda":
                    torch.cuda.current_stream(self._device).synchronize()  # others read the copy next
        self._copies[piece.name] = copy
        if not missing:
            flat[: piece.nbytes].copy_(copy.flat, non_blocking=True)

    def _filling(self, piece: Piece) -> AbstractContextManager[bool]:
        """Whether the piece's copy has to be filled: always, or unless another process has filled it."""
        return nullcontext(True) if self._shared is None else self._shared.filling(piece)

    def _prepare(self, piece: Piece) -> HostBuffer:
        pinned = self._device.type == "cuda"
        with on_device(self._device):
            if self._shared is None:
                return HostBuffer(piece.nbytes, pinned=pinned)
            return HostBuffer(piece.nbytes, pinned=pinned, memory=self._shared.map(piece))


class HostBuffer:
    """Page-aligned host memory of exactly the requested size, registered with CUDA where `pinned`.

    torch's own pinned allocator rounds up to powers of two, which would cost up to twice a block. `memory`: that of
    several processes; else new memory is allocated.
    """

    def __init__(self, nbytes: int, pinned: bool, memory: mmap.mmap | None = None) -> None:
        self._shared = memory is not None
        try:
            self._memory = memory or mmap.mmap(-1, max(nbytes, 1))
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
        if self._shared:
            self.flat[:: mmap.PAGESIZE].sum()  # another process may have filled it: reading allocates a page too
        else:
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
