"""Modules made on `meta`: they have shapes and no memory, and are compared with what the files hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.errors import InvalidModel
from ltx_a2v.model.files import Entries, listed

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


def on_meta(make: Callable[..., Module], **arguments: Any) -> Module:
    with torch.device("meta"):
        return make(**arguments).requires_grad_(False).eval()


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


_FLOATS = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


def check_entries(network: str, tensors: Mapping[str, Tensor], entries: Entries, key_map: KeyMap) -> None:
    """Each of the module's tensors must be in the file, in its shape and dtype, and none besides.

    Floats become one another; the bytes of a quantized tensor mean nothing in another dtype. Raises `InvalidModel`, in
    the file's names.
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


def _paths(entries: Entries) -> str:
    return ", ".join(sorted({str(entry.path) for entry in entries.values()})) or "the given files"
