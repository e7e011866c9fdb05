"""Modules made on `meta`, and weights streamed into them.

A module on `meta` has shapes and no memory. Each tensor of the file is read, converted and put in its place before the
next is read, so that a second copy of the model never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.model_files import Entries, listed
from ltx_a2v.checkpoint.reader import read_tensors
from ltx_a2v.errors import InvalidModel

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


def on_meta(make: Callable[..., Module], **arguments: Any) -> Module:
    with torch.device("meta"):
        return make(**arguments).requires_grad_(False).eval()


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def check_entries(network: str, shapes: Shapes, entries: Entries) -> None:
    """Every tensor of the module must be in the file, in its shape, and none besides. Raises `InvalidModel`."""
    missing, unknown = sorted(shapes.keys() - entries.keys()), sorted(entries.keys() - shapes.keys())
    if missing or unknown:
        parts = [f"lacks {listed(missing)}"] * bool(missing) + [f"has unknown {listed(unknown)}"] * bool(unknown)
        raise InvalidModel(f"The {network} in {_paths(entries)} does not fit its config: it {' and '.join(parts)}.")
    for name, shape in shapes.items():
        if entries[name].shape != shape:
            raise InvalidModel(
                f"The {network} in {entries[name].path} does not fit its config: {name!r} has shape "
                f"{list(entries[name].shape)}, the config says {list(shape)}."
            )


def _paths(entries: Entries) -> str:
    return ", ".join(sorted({str(entry.path) for entry in entries.values()})) or "the given files"


def load_weights(module: nn.Module, entries: Entries, device: torch.device, dtype: torch.dtype) -> None:
    """Stream `entries` into a module on `meta`; floating point tensors become `dtype` on `device`."""
    place(module, ((name, tensor.to(device, dtype)) for name, tensor in read_tensors(dict(entries))))


def place(module: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in tensors:
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor


def release(module: nn.Module) -> None:
    """Give the memory of every tensor back, whoever still holds the module."""
    module.to("meta")
