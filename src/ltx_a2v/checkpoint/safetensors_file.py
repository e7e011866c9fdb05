"""One safetensors file: what it holds and where, checked before anything is read.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
`{name: {dtype, shape, data_offsets}}` with an optional `__metadata__`, then the tensors back to back. The header is
parsed here because loading needs each tensor's place in the file, which the safetensors package does not tell.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltx_a2v.errors import InvalidModel

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes at `offset` from the start of `path`."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class SafetensorsFile:
    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    """In the order of their data in the file."""

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Read and check the header. Raises `InvalidModel` for a file that is missing, foreign or cut short."""
        header, data_start, size = _read_header(path)
        metadata = header.pop("__metadata__", {})
        entries = sorted((_entry(path, name, spec, data_start) for name, spec in header.items()), key=_by_offset)
        end = max((entry.offset + entry.nbytes for entry in entries), default=data_start)
        if end > size:
            raise InvalidModel(
                f"{path} is truncated: its header describes {end:,} bytes but the file has {size:,}; download it again."
            )
        return cls(path, metadata, {entry.name: entry for entry in entries})

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.tensors.values())


def _by_offset(entry: TensorEntry) -> tuple[int, str]:
    return entry.offset, entry.name


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    if not path.exists():
        raise InvalidModel(f"{path} does not exist; give the path of a .safetensors file.")
    if not path.is_file():
        raise InvalidModel(f"{path} is not a file; give the path of a .safetensors file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= MAX_HEADER_BYTES:
                raise InvalidModel(f"{path} is not a safetensors file: it does not begin with a header length.")
            raw = file.read(length)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from error
    if len(raw) < length:
        raise InvalidModel(f"{path} is truncated inside its header ({size:,} bytes); download it again.")
    try:
        header = json.loads(raw)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise InvalidModel(f"{path} is not a safetensors file: its header is not JSON.")
    return header, 8 + length, size


def _entry(path: Path, name: str, spec: Any, data_start: int) -> TensorEntry:
    try:
        dtype = DTYPES[spec["dtype"]]
        shape = tuple(int(n) for n in spec["shape"])
        start, end = (int(n) for n in spec["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise InvalidModel(f"{path} has a damaged header: tensor {name!r} is described as {spec!r}.") from None
    if start < 0 or end - start != math.prod(shape) * dtype.itemsize:
        raise InvalidModel(f"{path} has a damaged header: tensor {name!r} has the wrong size for shape {shape}.")
    return TensorEntry(path, name, dtype, shape, data_start + start, end - start)
