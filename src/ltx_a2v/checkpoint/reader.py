"""Tensors out of files: one at a time, read rather than mapped.

Pages of a mapped file count as memory of the process for as long as the map lives; a read into a buffer that is freed
after its tensor has been placed keeps the peak at one tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.errors import InvalidModel


def read_bytes(entry: TensorEntry, into: Tensor) -> None:
    """Fill `into` (uint8 [nbytes], on the CPU) with the tensor's bytes."""
    view = memoryview(into.numpy().data)
    with entry.path.open("rb", buffering=0) as file:
        done = 0
        while done < entry.nbytes:
            count = os.preadv(file.fileno(), [view[done:]], entry.offset + done)
            if count == 0:
                raise InvalidModel(f"{entry.path} ended while {entry.name!r} was read; was it replaced meanwhile?")
            done += count


def read_tensor(entry: TensorEntry) -> Tensor:
    """The tensor in the file's dtype, on the CPU."""
    raw = torch.empty(entry.nbytes, dtype=torch.uint8)
    read_bytes(entry, raw)
    return raw.view(entry.dtype).view(entry.shape)


def read_tensors(entries: dict[str, TensorEntry]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its given name, in the order of the files, so that disks read straight ahead."""
    for name, entry in sorted(entries.items(), key=_by_place):
        yield name, read_tensor(entry)


def _by_place(item: tuple[str, TensorEntry]) -> tuple[Path, int]:
    return item[1].path, item[1].offset
