"""What every format is: a linear layer that stores its weight in its own way.

A format is a subclass of `StoredLinear`. A layer takes it by `__class__` reassignment, so every reference to the layer
stays valid, and `forward` belongs to the class, as torch.compile wants it. What a layer stores are plain parameters of
plain dtypes: a block can be laid out as bytes from a model on `meta`, streamed, and bound again.

`store` alone says what is stored, under which name, dtype and shape. The loader runs it on values; a model built on
`meta` runs it on its empty parameters and thereby learns its own layout.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v.kernels import fused_on, upcast_rows

CHUNK_ELEMENTS = 2**22
"""Weights are quantized this many elements at a time: 16 MiB per float32 temporary, while a block computes; on a
CPU twice as fast as with four times as many."""

UPCAST_ELEMENTS = 2**26
"""Weights are upcast this many elements at a time, 128 MiB in bf16: the largest layer of a transformer block."""


class StoredLinear(nn.Linear):
    """A linear layer in some format; the texts below become the help and the docs."""

    summary: ClassVar[str]
    stored: ClassVar[str]
    multiplied: ClassVar[str]
    extra: ClassVar[str | None] = None
    """The optional dependency the format needs, as named in pyproject."""

    @staticmethod
    @abstractmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """The stored tensors of `weight` [out, in], by name; the same bits on every device; works on `meta`."""

    @staticmethod
    def quantize_bias(bias: Tensor) -> Tensor:
        return bias

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that `forward` multiplies by, rounded to `dtype`."""

    @classmethod
    def store(cls, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """What the layer stores for its parameter `name` ("weight" or "bias")."""
        return cls.quantize(tensor) if name == "weight" else {name: cls.quantize_bias(tensor)}

    @classmethod
    def check_device(cls, mode: str, device: torch.device) -> None:
        """Raises `InvalidMode` where the device cannot multiply this way; by default every device can."""


Format = type[StoredLinear]
AnyLinear = TypeVar("AnyLinear", bound=StoredLinear)


def reassign(layer: nn.Linear, format: type[AnyLinear]) -> AnyLinear:
    """Turn `layer` into `format` where it is: its values quantized, or on `meta` its layout."""
    parameters = dict(layer.named_parameters(recurse=False))
    layer.__class__ = format
    for name, parameter in parameters.items():
        for stored_name, tensor in _stored(format, name, parameter.detach()).items():
            layer.register_parameter(stored_name, nn.Parameter(tensor, requires_grad=False))
    assert isinstance(layer, format)
    return layer


def _stored(format: Format, name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    """On `meta` asked once for all layers that are alike."""
    if not tensor.is_meta:
        return format.store(name, tensor)
    key = format, name, tensor.shape, tensor.dtype
    if key not in _layouts:
        _layouts[key] = format.store(name, tensor)
    return _layouts[key]


_layouts: dict[tuple[Format, str, torch.Size, torch.dtype], Mapping[str, Tensor]] = {}


def by_rows(quantize_rows: Callable[[Tensor], dict[str, Tensor]], weight: Tensor) -> dict[str, Tensor]:
    """Quantize some rows at a time; each stored tensor must have one entry per row along its first dimension."""
    chunks = row_chunks(weight)
    if len(chunks) == 1:
        return quantize_rows(weight)
    whole: dict[str, Tensor] = {}
    for rows in chunks:
        for name, part in quantize_rows(weight[rows]).items():
            if name not in whole:
                whole[name] = part.new_empty((len(weight), *part.shape[1:]))
            whole[name][rows] = part
    return whole


def row_chunks(weight: Tensor, elements: int | None = None) -> list[slice]:
    """The rows of `weight` in pieces of at most `elements` (default: `CHUNK_ELEMENTS`), or of one row."""
    step = max(1, (elements or CHUNK_ELEMENTS) // weight.shape[1])
    return [slice(start, start + step) for start in range(0, len(weight), step)]


def row_scales(rows: Tensor, largest: float) -> Tensor:
    """float32 [out]: what maps each row's largest magnitude to `largest`; 1 for a row of zeros.

    A product, not a quotient: CUDA divides by a number through its reciprocal and the CPU does not, which would differ
    in the last bit.
    """
    low, high = rows.aminmax(dim=1)
    amax = torch.maximum(-low, high).float()
    return torch.where(amax > 0, amax * (1 / largest), 1.0)


def scaled_linear(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`input` [..., in] times an int8 or e4m3 `weight` [out, in] with its float32 `scale` ([out] or one).

    Both are exact in bf16 and a row's scale commutes with the sum over it, so the plain way scales the product, and the
    weight is never rounded again. On a GPU that pass over the product costs half of what the multiplication does (0.37
    instead of 0.24 ms for 4992 x 4096 x 4096 on an H100), so there the weight is scaled while it is upcast, with the
    error of its rounding to bf16: 0.0016, where int8's own is 0.008.

    A text projection is upcast some rows at a time: whole, its 1.4 GiB in bf16 would decide the smallest budget.
    """
    pieces = row_chunks(weight, UPCAST_ELEMENTS)
    if len(pieces) == 1:
        return _scaled_linear(input, weight, scale, bias)
    outputs = [
        _scaled_linear(
            input,
            weight[rows],
            scale[rows] if scale.ndim else scale,
            None if bias is None else bias[rows],
        )
        for rows in pieces
    ]
    return torch.cat(outputs, dim=-1)


def _scaled_linear(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    if fused_on(input):
        return F.linear(input, upcast_rows(weight, scale, input.dtype), bias)
    return scale_rows_(F.linear(input, weight.to(input.dtype)), scale, bias)


def scale_rows_(products: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`products` [..., out] times the float32 `scale` ([out] or one) plus `bias`, in place, rounded once."""
    if bias is None:
        return torch.mul(products, scale, out=products)
    return torch.addcmul(bias, products, scale, out=products)
