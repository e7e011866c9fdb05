"""Writes a safetensors file tensor by tensor, so that only one is in memory.

The header with all offsets comes first, so names, dtypes and shapes must be known before the first tensor is written.
Until the last byte is on disk the file has a temporary name; on any error it is removed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from torch import Tensor

from ltx_a2v.checkpoint.dtypes import DTYPES
from ltx_a2v.checkpoint.safetensors_file import MAX_HEADER_BYTES
from ltx_a2v.errors import InvalidOutput

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HEADER_ALIGNMENT = 8
"""The header is padded with spaces, so that the tensors of a mapped file are aligned for every dtype."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsWriter:
    """A context in which `write` takes the tensors of `specs`, all of them, in that order.

    Raises `InvalidOutput` where the disk is too small or the file system refuses.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._specs = specs
        self._header = header_of(specs, metadata)
        self._written = 0
        self._file: BinaryIO

    @property
    def nbytes(self) -> int:
        return len(self._header) + sum(spec.nbytes for spec in self._specs)

    def __enter__(self) -> Self:
        free = shutil.disk_usage(self._path.parent).free
        if self.nbytes > free:
            raise InvalidOutput(
                f"{self._path} needs {_gib(self.nbytes)} and the disk has {_gib(free)} free; make room or choose "
                "another place."
            )
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise self._refused(error) from error
        try:
            self._put(self._header)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        expected, given = self._specs[self._written], TensorSpec(name, tensor.dtype, tuple(tensor.shape))
        if given != expected:
            raise ValueError(f"{expected} was announced and {given} is given")
        self._put(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self._written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _put(self, content: bytes | memoryview) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise self._refused(error) from error

    def _finish(self) -> None:
        if self._written < len(self._specs):
            raise ValueError(f"{self._specs[self._written]} was announced and not written")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._part.replace(self._path)
        except OSError as error:
            raise self._refused(error) from error

    def _discard(self) -> None:
        """Close the file, and remove it if it is not complete."""
        try:
            self._file.close()
        except OSError:  # of a full disk, whose first error is being raised already
            pass
        finally:
            self._part.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> InvalidOutput:
        return InvalidOutput(f"{self._path} cannot be written: {os.strerror(error.errno or 0)}; nothing was kept.")


def header_of(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in specs:
        end = offset + spec.nbytes
        content[spec.name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError("the header is larger than safetensors allows")
    return len(text).to_bytes(8, "little") + text


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"
