"""Some tensors of a network that live, move and are bound together: one block, or all that is in no block.

On the device and in host memory a piece is one flat buffer, in which its tensors lie back to back. Where each of them
lies is read off the module on `meta`: what is stored, in which dtype and shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes; what CUDA's own allocator gives, and more than any kernel asks for."""


class Piece:
    """`name` is that of the block in the module, empty for the rest; `names` are the module's tensors that it has, and
    `sources` the file's tensors that they are made of."""

    def __init__(self, name: str, module: nn.Module, names: Iterable[str], sources: Iterable[str] = ()) -> None:
        self.name = name
        self.sources = tuple(sources)
        self._tensors: dict[str, _Place] = {}
        offset = 0
        for tensor in names:
            place = self._tensors[tensor] = _place(module, tensor, offset)
            offset += -(-place.nbytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = offset
        self._bound: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors by name, as views of `flat` (uint8 [at least nbytes])."""
        return {
            name: flat[place.offset : place.offset + place.nbytes].view(place.dtype).view(place.shape)
            for name, place in self._tensors.items()
        }

    def bind(self, flat: Tensor) -> None:
        """Make the module compute with the tensors in `flat`, whose memory lives at least until `unbind`."""
        if self._bound is not flat:
            self._bind(self.views(flat))
            self._bound = flat

    def unbind(self) -> None:
        """Leave the module's tensors on `meta`, so that they keep no memory alive."""
        self._bind({name: place.empty for name, place in self._tensors.items()})
        self._bound = None

    def _bind(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            place = self._tensors[name]
            place.owner[place.leaf] = nn.Parameter(tensor, requires_grad=False) if place.is_parameter else tensor


class _Place(NamedTuple):
    """Of one tensor: in its module, and in the flat buffer."""

    owner: dict[str, Tensor | None]
    leaf: str
    is_parameter: bool
    empty: Tensor
    offset: int

    @property
    def dtype(self) -> torch.dtype:
        return self.empty.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.empty.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.empty.shape) * self.empty.dtype.itemsize


def _place(module: nn.Module, name: str, offset: int) -> _Place:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    parameters: dict[str, Tensor | None] = owner._parameters  # type: ignore[assignment]
    if leaf in parameters:
        return _Place(parameters, leaf, True, owner.get_parameter(leaf), offset)
    return _Place(owner._buffers, leaf, False, owner.get_buffer(leaf), offset)
