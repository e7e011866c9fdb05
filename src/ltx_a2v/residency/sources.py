"""Where the weights of a part come from when they are needed on the device: the file, or a copy in host memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence, Set
from typing import Protocol

import torch
from torch import Tensor

from ltx_a2v.errors import InvalidModel, OutOfMemory
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.recipe import LoadedPart, Recipe


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
        if missing:
            raise InvalidModel(f"The {self._recipe.name} was read without {min(missing)}; is the file intact?")

    def nbytes(self, index: int) -> int:
        return self._parts[index].part.layout.nbytes

    def release(self) -> None:
        pass


class HostSource:
    """Copies of parts in (pinned) host memory, made while they are first fetched from the file, and kept."""

    def __init__(self, files: FileSource, device: torch.device) -> None:
        self._files = files
        self._device = device
        self._copies: dict[int, HostBuffer] = {}
        self._copied: Set[int] = frozenset()

    def copying(self, parts: Set[int]) -> HostSource:
        """From now on these are copied when they are fetched; the others come from the file, or the copy there is."""
        self._copied = parts
        return self

    @property
    def nbytes(self) -> int:
        return sum(copy.flat.numel() for copy in self._copies.values())

    def fetch(self, index: int, flat: Tensor) -> None:
        size = self._files.nbytes(index)
        if index in self._copies:
            flat[:size].copy_(self._copies[index].flat, non_blocking=True)
            return
        self._files.fetch(index, flat)
        if index not in self._copied:
            return
        copy = HostBuffer(size, pinned=self._device.type == "cuda")
        copy.flat.copy_(flat[:size], non_blocking=True)
        self._copies[index] = copy

    def release(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # copies may be under way
        for copy in self._copies.values():
            copy.release()
        self._copies.clear()


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
            self._register()

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
