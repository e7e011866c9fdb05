"""One safetensors file: the names and places of its tensors, checked before any is read.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
`{name: {dtype, shape, data_offsets}}` with an optional `__metadata__`, then the tensors back to back. The header is
parsed here because loading needs the offset of each tensor in the file, which the safetensors package does not give.
No torch is imported, so that the command line finds a wrong file before it waits for torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

from ltx_a2v.checkpoint.paths import readable
from ltx_a2v.errors import InvalidModel

if TYPE_CHECKING:
    import torch

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element by the format's names of dtypes; `dtypes.py` has torch's."""
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes at `offset` from the start of `path`."""

    path: Path
    name: str
    format: str
    """The dtype by the format's name, as `BF16`."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    header: str = ""
    """Digest of the header that the entry is from; see `check_unchanged`."""

    @cached_property
    def dtype(self) -> torch.dtype:
        from ltx_a2v.checkpoint.dtypes import DTYPES

        return DTYPES[self.format]


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header: metadata, and the entries of all tensors."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]
    """In the order of their data in the file."""

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Read and check the header. Raises `InvalidModel` for a file that is missing, foreign or cut short."""
        raw, size = _read_header(path)
        header, digest, data_start = _parsed(path, raw), _digest(raw), 8 + len(raw)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
            raise InvalidModel(f"{path} has a damaged header: its __metadata__ is not a table of texts.")
        entries = sorted(
            (_entry(path, name, spec, data_start, digest) for name, spec in header.items()), key=_by_offset
        )
        end = max((entry.offset + entry.nbytes for entry in entries), default=data_start)
        if end > size:
            raise InvalidModel(
                f"{path} is truncated: its header describes {end:,} bytes but the file has {size:,}; download it again."
            )
        _check_back_to_back(path, entries, data_start, size)
        return cls(path, metadata, {entry.name: entry for entry in entries})


def check_unchanged(entries: Iterable[TensorEntry]) -> None:
    """Raises `InvalidModel` where a file was replaced, so that its header is no longer the one that the entries are
    from.

    A header is read again only when the file's time, size or identity changed.
    """
    for path, digest in {(entry.path, entry.header) for entry in entries if entry.header}:
        with readable(path):
            status = path.stat()
        stamp = digest, status.st_mtime_ns, status.st_size, status.st_ino
        if _verified.get(path) == stamp:
            continue
        if _digest(_read_header(path)[0]) != digest:
            raise InvalidModel(f"{path} was replaced by another file while the model was open; open the model again.")
        _verified[path] = stamp


_verified: dict[Path, tuple[str, int, int, int]] = {}
"""By file: the digest of its header, and the stamp of the file when it was computed."""


def _by_offset(entry: TensorEntry) -> tuple[int, int, str]:
    return entry.offset, entry.nbytes, entry.name


def _check_back_to_back(path: Path, entries: list[TensorEntry], start: int, size: int) -> None:
    """Check, as the format requires, that tensors do not overlap and leave no gaps."""
    for entry in entries:
        if entry.offset != start:
            how = "shares bytes with the one before" if entry.offset < start else "leaves a gap after the one before"
            raise InvalidModel(f"{path} has a damaged header: tensor {entry.name!r} {how}; download it again.")
        start += entry.nbytes
    if start != size:
        raise InvalidModel(
            f"{path} has {size - start:,} bytes behind its last tensor, unknown to its header; download it again."
        )


def _read_header(path: Path) -> tuple[bytes, int]:
    """The header's text, and the size of the file."""
    with readable(path):
        if not path.exists():
            raise InvalidModel(f"{path} does not exist; give the path of a .safetensors file.")
        if not path.is_file():
            raise InvalidModel(f"{path} is not a file; give the path of a .safetensors file.")
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= MAX_HEADER_BYTES:
                raise InvalidModel(f"{path} is not a safetensors file: it does not begin with a header length.")
            raw = file.read(length)
    if len(raw) < length:
        raise InvalidModel(f"{path} is truncated inside its header ({size:,} bytes); download it again.")
    return raw, size


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    header = json_object(raw)
    if header is None:
        raise InvalidModel(f"{path} is not a safetensors file: its header is not JSON.")
    return header


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def json_object(raw: str | bytes) -> dict[str, Any] | None:
    """None for what is no JSON object, or is nested too deeply to be one of ours."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _entry(path: Path, name: str, spec: Any, data_start: int, header: str) -> TensorEntry:
    try:
        dtype = spec["dtype"]
        each = ITEM_BYTES[dtype]
        shape, (start, end) = _whole_numbers(spec["shape"]), _whole_numbers(spec["data_offsets"])
    except (KeyError, TypeError, ValueError):
        described = shortened(spec)
        raise InvalidModel(f"{path} has a damaged header: tensor {name!r} is described as {described}.") from None
    if end - start != math.prod(shape) * each:
        raise InvalidModel(f"{path} has a damaged header: tensor {name!r} has the wrong size for shape {shape}.")
    return TensorEntry(path, name, dtype, shape, data_start + start, end - start, header)


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if any(type(value) is not int or value < 0 for value in values):
        raise ValueError
    return tuple(values)
