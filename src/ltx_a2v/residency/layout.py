"""Where each tensor of a part of a network lies in one flat buffer.

A part (a transformer block, or all that is in no block) is moved as one piece, so its tensors lie back to back. The
layout is read off the module on `meta`: what is stored, in which dtype and shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes; what CUDA's own allocator gives, and more than any kernel asks for."""


@dataclass(frozen=True)
class Field:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    fields: tuple[Field, ...]
    nbytes: int

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> Layout:
        fields, offset = [], 0
        for name, tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            fields.append(Field(name, tensor.dtype, tuple(tensor.shape), offset, size))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        return cls(tuple(fields), offset)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors by name, as views of `flat` (uint8 [at least nbytes])."""
        return {
            field.name: flat[field.offset : field.offset + field.nbytes].view(field.dtype).view(field.shape)
            for field in self.fields
        }


class Part:
    """Some tensors of a network that live and move together, and their places in its module."""

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._places: dict[str, tuple[dict[str, Tensor | None], str, bool]] = {}
        tensors: dict[str, Tensor] = {}
        for name in names:
            owner_name, _, leaf = name.rpartition(".")
            owner = module.get_submodule(owner_name)
            parameters: dict[str, Tensor | None] = owner._parameters  # type: ignore[assignment]
            is_parameter = leaf in parameters
            self._places[name] = (parameters if is_parameter else owner._buffers, leaf, is_parameter)
            tensors[name] = owner.get_parameter(leaf) if is_parameter else owner.get_buffer(leaf)
        self.layout = Layout.of(tensors.items())
        self._empty = self.bindable(tensors)

    def bindable(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: nn.Parameter(view, requires_grad=False) if self._places[name][2] else view
            for name, view in views.items()
        }

    def bind(self, tensors: dict[str, Tensor]) -> None:
        """Make the module compute with `tensors` (of `bindable`)."""
        for name, tensor in tensors.items():
            places, leaf, _ = self._places[name]
            places[leaf] = tensor

    def unbind(self) -> None:
        """Leave the module on `meta`, so that it keeps no memory alive."""
        self.bind(self._empty)
