"""The base class of all quantization formats: a linear layer with its own storage of the weight.

A format is a subclass of `StoredLinear`. A layer is converted by reassigning its `__class__`, so every reference to it
stays valid, and `forward` belongs to the class, as torch.compile requires. A layer stores plain parameters of plain
dtypes, so the layout of a block in bytes follows from a model on `meta`, and the block can be streamed and bound again.

`store` is the only definition of the stored tensors, their names, dtypes and shapes. The loader runs it on values. A
model on `meta` runs it on its empty parameters to get its layout.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v.kernels import Form, fused_on, upcast_rows

CHUNK_ELEMENTS = 2**22
"""Elements quantized at a time: 16 MiB per float32 temporary, while a block computes. On a CPU twice as fast as four
times as many."""

UPCAST_ELEMENTS = 2**26
"""Elements upcast at a time, 128 MiB in bf16: the largest layer of a transformer block."""


class StoredLinear(nn.Linear):
    """A linear layer in some format; the class texts appear in the help and the docs."""

    summary: ClassVar[str]
    stored: ClassVar[str]
    multiplied: ClassVar[str]
    upcasts: ClassVar[bool] = False
    """Whether `forward` multiplies by the whole weight in the input's dtype, which `dequantize` gives."""
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

    def to_merge(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """A weight [out, in], and the float32 scale ([out] or one) that it is still to be multiplied by, for
        `kernels.merge_low_rank`: as stored, where the kernel can upcast it itself."""
        return self.dequantize(dtype), None

    def input_form(self) -> Form:
        """What `forward` multiplies; a layer that takes quantized rows quantizes a plain tensor itself."""
        return Form.VALUES

    @classmethod
    def store(cls, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The stored tensors, by name, of the parameter `name` ("weight" or "bias")."""
        return cls.quantize(tensor) if name == "weight" else {name: cls.quantize_bias(tensor)}

    @classmethod
    def check_device(cls, mode: str, device: torch.device) -> None:
        """Raises `InvalidMode` where the device cannot multiply this way; by default every device can."""


Format = type[StoredLinear]
AnyLinear = TypeVar("AnyLinear", bound=StoredLinear)


def reassign(layer: nn.Linear, format: type[AnyLinear]) -> AnyLinear:
    """Convert `layer` to `format` in place: its values are quantized; on `meta`, its layout is set."""
    parameters = dict(layer.named_parameters(recurse=False))
    layer.__class__ = format
    for name, parameter in parameters.items():
        for stored_name, tensor in _stored(format, name, parameter.detach()).items():
            layer.register_parameter(stored_name, nn.Parameter(tensor, requires_grad=False))
    assert isinstance(layer, format)
    return layer


def _stored(format: Format, name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    """On `meta`, computed once for all layers of equal shape and dtype."""
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
    """float32 [out]: scales that map each row's largest magnitude to `largest`; 1 for a row of zeros.

    Multiplied by the reciprocal instead of divided: CUDA divides by a scalar through its reciprocal and the CPU does
    not, so the last bit would differ.
    """
    low, high = rows.aminmax(dim=1)
    amax = torch.maximum(-low, high).float()
    return torch.where(amax > 0, amax * (1 / largest), 1.0)


def scaled_linear(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`input` [..., in] times an int8 or e4m3 `weight` [out, in] with its float32 `scale` ([out] or one).

    int8 and e4m3 are exact in bf16, and a row's scale can be applied after the sum, so the plain form scales the
    product and does not round the weight again. On a GPU this pass over the product would cost half as much as the GEMM
    (0.37 instead of 0.24 ms for 4992 x 4096 x 4096 on an H100). So there the weight is scaled while it is upcast, with
    the error of rounding it to bf16: 0.0016, where int8's own error is 0.008.

    A large weight is upcast some rows at a time: a whole text projection, 1.4 GiB in bf16, would determine the smallest
    budget.
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
