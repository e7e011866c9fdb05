"""The input of linear layers in the forms that they multiply: as it is, or quantized to e4m3 row by row.

A kernel that makes an activation quantizes it while its row is in registers, so that it is neither written as bfloat16
nor read again only to be quantized, and layers with a common input share the quantized rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

import torch
from torch import Tensor


class Form(Flag):
    """What a linear layer takes its input as; several layers together may take both."""

    VALUES = auto()
    E4M3 = auto()


@dataclass(frozen=True)
class Quantized:
    """e4m3 [..., dim] and a float32 scale for each row [..., 1]: `values * scale` is what was quantized, rounded."""

    values: Tensor
    scale: Tensor
    dtype: torch.dtype
    """Of what was quantized, in which layers give their output."""

    def rows(self, rows: slice) -> Quantized:
        return Quantized(self.values[rows], self.scale[rows], self.dtype)

    def expand(self, rows: int) -> Quantized:
        return Quantized(self.values.expand(rows, -1, -1), self.scale.expand(rows, -1, -1), self.dtype)


@dataclass(frozen=True)
class Activation:
    """[rows, tokens, dim] in the forms that were asked for: the values, their quantized form, or both."""

    values: Tensor | None
    quantized: Quantized | None = None

    @property
    def tensor(self) -> Tensor:
        """The values. They must have been asked for."""
        assert self.values is not None, "the activation was made in e4m3 only"
        return self.values

    @property
    def tokens(self) -> int:
        """How many tokens all rows have together."""
        shape = self._any.shape
        return shape[0] * shape[1]

    def __len__(self) -> int:
        return len(self._any)

    def __getitem__(self, rows: slice) -> Activation:
        values = None if self.values is None else self.values[rows]
        return Activation(values, self.quantized and self.quantized.rows(rows))

    def expand(self, rows: int) -> Activation:
        """One row as many."""
        values = None if self.values is None else self.values.expand(rows, -1, -1)
        return Activation(values, self.quantized and self.quantized.expand(rows))

    @property
    def _any(self) -> Tensor:
        return self.quantized.values if self.values is None and self.quantized else self.tensor


def allocate(shape: torch.Size, like: Tensor, form: Form, values: Tensor | None = None) -> Activation:
    """What a kernel writes to, on the device of `like` and in its dtype; `values` are written over where given."""
    quantized = None
    if form & Form.E4M3:
        scale = torch.empty((*shape[:-1], 1), dtype=torch.float32, device=like.device)
        quantized = Quantized(torch.empty(shape, dtype=torch.float8_e4m3fn, device=like.device), scale, like.dtype)
    if not form & Form.VALUES:
        return Activation(None, quantized)
    return Activation(torch.empty(shape, dtype=like.dtype, device=like.device) if values is None else values, quantized)
