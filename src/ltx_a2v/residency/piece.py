"""The tensors of a network that are loaded, copied and bound as one unit: one block, or everything outside the blocks.

On the device and in host memory a piece is one flat buffer with its tensors back to back. Their offsets, dtypes, shapes
and memory layouts follow from the module on `meta`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes: that of CUDA's own allocator, and more than any kernel requires."""


class Piece:
    """`name`: the block's name in the module, empty for the piece outside the blocks. `names`: its tensors in the
    module. `sources`: the tensors of the file that they are converted from. `nbytes`: size of the flat buffer."""

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

    @cached_property
    def layout(self) -> tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]:
        """Name within the piece, dtype, shape and offset of each tensor. Pieces of equal layouts in the same buffer
        have the same tensors at the same addresses."""
        start = len(self.name) + 1 if self.name else 0
        return tuple(
            (name[start:], place.dtype, tuple(place.empty.shape), place.offset) for name, place in self._tensors.items()
        )

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors by name, as views of `flat` (uint8 [at least nbytes])."""
        return {name: place.view(flat) for name, place in self._tensors.items()}

    def bind(self, flat: Tensor) -> None:
        """Make the module compute with the tensors in `flat`, whose memory must stay valid until `unbind`."""
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
    """The place of one tensor: in its module, and at `offset` bytes in the flat buffer."""

    owner: dict[str, Tensor | None]
    leaf: str
    is_parameter: bool
    empty: Tensor
    offset: int

    @property
    def dtype(self) -> torch.dtype:
        return self.empty.dtype

    def view(self, flat: Tensor) -> Tensor:
        """In the memory layout of the tensor on `meta`: channels last for the convolutions of some networks."""
        own = flat[self.offset : self.offset + self.nbytes].view(self.dtype)
        return own.as_strided(self.empty.shape, self.empty.stride())

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
