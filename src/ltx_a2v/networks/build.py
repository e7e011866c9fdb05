"""Modules made on `meta`: they have shapes and no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


def on_meta(make: Callable[..., Module], **arguments: Any) -> Module:
    with torch.device("meta"):
        return make(**arguments).requires_grad_(False).eval()


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
