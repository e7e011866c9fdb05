"""The tensors of one network in its files, and the check that they match its module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.errors import InvalidModel

Entries = Mapping[str, TensorEntry]
"""Entries by the name of the tensor in the network's module."""

_FLOATS = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


def check_entries(network: str, tensors: Mapping[str, Tensor], entries: Entries, key_map: KeyMap) -> None:
    """Each of the module's `tensors` must be in the file, in its shape and dtype, and no others.

    Floats are converted into each other; the bytes of a quantized tensor mean nothing in another dtype. Raises
    `InvalidModel`, in the file's names.
    """
    missing = [key_map.to_file(name) for name in tensors.keys() - entries.keys()]
    unknown = [entries[name].name for name in entries.keys() - tensors.keys()]
    if missing or unknown:
        lacks = [f"lacks {listed(missing)}"] * bool(missing)
        parts = lacks + [f"has {listed(unknown, 'unknown tensor')}"] * bool(unknown)
        raise InvalidModel(f"The {network} in {_paths(entries)} does not fit its config: it {' and '.join(parts)}.")
    for name, tensor in tensors.items():
        entry = entries[name]
        if entry.shape != tensor.shape:
            raise InvalidModel(
                f"The {network} in {entry.path} does not fit its config: {entry.name!r} has shape {list(entry.shape)}, "
                f"the config says {list(tensor.shape)}."
            )
        if entry.dtype != tensor.dtype and not {entry.dtype, tensor.dtype} <= _FLOATS:
            raise InvalidModel(
                f"The {network} in {entry.path} is not stored as it says: {entry.name!r} is {entry.dtype}, not "
                f"{tensor.dtype}; use an original file, or quantize it again."
            )


def listed(names: list[str], what: str = "tensor", most: int = 5) -> str:
    """Their number, and the first few names."""
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({', '.join(sorted(names)[:most])}{more})"


def _paths(entries: Entries) -> str:
    return ", ".join(sorted({str(entry.path) for entry in entries.values()})) or "the given files"
