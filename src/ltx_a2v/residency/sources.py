"""Where the weights of a part come from when they are needed on the device: the file, or a copy in host memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from ltx_a2v.errors import InvalidModel, OutOfMemory
from ltx_a2v.model.recipe import LoadedPart, Recipe
from ltx_a2v.residency.ledger import on_host

PREPARING_THREADS = 4


class Source(Protocol):
    def fetch(self, index: int, flat: Tensor) -> None:
        """Fill `flat` (uint8, on the device) with part `index`; asynchronous on the current stream where it can be."""

    def release(self) -> None: ...


class FileSource:
    """Reads, converts and places tensor by tensor: no second copy of a part exists anywhere."""

    def __init__(self, recipe: Recipe, parts: Sequence[LoadedPart]) -> None:
        self._recipe = recipe
        self._parts = parts

    def fetch(self, index: int, flat: Tensor) -> None:
        loaded = self._parts[index]
        views = loaded.part.layout.views(flat)
        missing = set(views)
        for name, tensor in self._recipe.stored(loaded.sources, flat.device):
            views[name].copy_(tensor)
            missing.discard(name)
            del tensor  # before the next one is converted
        if missing:
            raise InvalidModel(f"The {self._recipe.name} was read without {min(missing)}; is the file intact?")

    def nbytes(self, index: int) -> int:
        return self._parts[index].part.layout.nbytes

    def release(self) -> None:
        pass


class HostSource:
    """Copies of parts in (pinned) host memory, made while they are first fetched from the file, and kept.

    Their memory is got ready ahead, by threads of its own: to have and pin a page for the first time takes longer than
    to read into it (1.65 GB/s on a host of an H100, 6 GB/s by several threads, where files were read at 14 GB/s).
    """

    def __init__(self, files: FileSource, device: torch.device) -> None:
        self._files = files
        self._device = device
        self._copies: dict[int, HostBuffer] = {}
        self._coming: dict[int, Future[HostBuffer]] = {}

    def copying(self, parts: Sequence[int]) -> HostSource:
        """From now on these are copied when they are fetched, which will be in this order; the others come from the
        file, or the copy there is."""
        self.forget_coming()
        wanted = [index for index in parts if index not in self._copies]
        if wanted:
            pool = ThreadPoolExecutor(min(PREPARING_THREADS, len(wanted)), "host-memory")
            self._coming = {index: pool.submit(self._prepare, self._files.nbytes(index)) for index in wanted}
            pool.shutdown(wait=False)  # its threads end when they have done that
        return self

    @property
    def nbytes(self) -> int:
        return sum(self._files.nbytes(index) for index in self._copies)

    def fetch(self, index: int, flat: Tensor) -> None:
        size = self._files.nbytes(index)
        if index in self._copies:
            flat[:size].copy_(self._copies[index].flat, non_blocking=True)
            return
        self._files.fetch(index, flat)
        if index in self._coming:
            copy = self._coming.pop(index).result()
            copy.flat.copy_(flat[:size], non_blocking=True)
            self._copies[index] = copy

    def forget_coming(self) -> None:
        """Give back what was got ready and nobody fetched; what is not yet begun is not begun."""
        unfinished = [future for future in self._coming.values() if not future.cancel()]
        self._coming = {}
        for future in unfinished:
            if future.exception() is None:
                future.result().release()

    def release(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # copies may be under way
        self.forget_coming()
        for copy in self._copies.values():
            copy.release()
        self._copies.clear()

    def _prepare(self, nbytes: int) -> HostBuffer:
        if self._device.type != "cuda":
            return HostBuffer(nbytes, pinned=False)
        with torch.cuda.device(self._device):
            return HostBuffer(nbytes, pinned=True)


class HostBuffer:
    """Page-aligned host memory of exactly the size asked for, registered with CUDA where `pinned`.

    torch's own pinned allocator rounds up to powers of two, which would cost up to twice a block.
    """

    def __init__(self, nbytes: int, pinned: bool) -> None:
        try:
            self._memory = mmap.mmap(-1, max(nbytes, 1))
        except OSError as error:
            raise OutOfMemory(
                f"{nbytes / 2**30:.2f} GiB more host memory could not be had; stream from the file instead."
            ) from error
        with on_host():
            self.flat: Tensor = torch.frombuffer(self._memory, dtype=torch.uint8)[:nbytes]
        self._registered = 0
        if pinned and nbytes:
            self._have_pages()
            self._register()

    def _have_pages(self) -> None:
        """CUDA would do it while it pins, page by page, and let nobody launch anything meanwhile."""
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
