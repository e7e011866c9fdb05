"""Modules made on `meta`: they have shapes and no memory, and are compared with what the files hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from ltx_a2v.checkpoint.model_files import Entries, listed
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
