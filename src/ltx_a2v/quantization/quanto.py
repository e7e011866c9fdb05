"""The formats of optimum-quanto: quanto quantizes and multiplies, its tensors are plain parameters here.

Data, scales and shifts are parameters of the layer, and `forward` builds quanto's tensor around them, for two reasons:
blocks can be laid out as bytes and streamed, and the layer stays the same object. quanto's own `quantize()` replaces
the module and sets the parameters of the old one to None, so any other reference to the old one fails with `linear():
argument 'weight' must be Tensor, not NoneType`.

Three functions of quanto are avoided, since they would compile C++ or CUDA at run time: its own `unpack` (two lines of
torch do the same), and the Marlin and AWQ kernels that `optimized=True` may choose.

The scales are bf16, as quanto keeps them for bf16 models, and the weights are rounded with these bf16 scales.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.quantization.linear import StoredLinear, by_rows
from ltx_a2v.quantization.quiet import quiet


@cache
def quanto() -> ModuleType:
    """The library, imported when first needed (it imports all of transformers)."""
    # the one logs a line where it finds a CUDA toolkit and no GPU, the other is imported along where it is installed
    with quiet("torch.utils.cpp_extension", "bitsandbytes"):
        import optimum.quanto

    return optimum.quanto


class QuantoLinear(StoredLinear):
    """A layer that multiplies by quanto's tensor."""

    extra = "quanto"
    multiplied = "optimum-quanto"

    weight_scale: Tensor

    @abstractmethod
    def _quanto_weight(self, dtype: torch.dtype) -> Any:
        """quanto's tensor of the weight, which multiplies in `dtype`."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        weight: Tensor = self._quanto_weight(dtype).dequantize()
        return weight

    def forward(self, input: Tensor) -> Tensor:
        # For bf16 on a CPU quanto calls torch._weight_int8pack_mm, which kills the process (SIGSEGV in torch 2.15)
        # where rows are not a multiple of 16 long.
        weight = self.dequantize(input.dtype) if self.in_features % 16 else self._quanto_weight(input.dtype)
        return F.linear(input, weight, self.bias)


class _QuantoBytesLinear(QuantoLinear):
    """8 bits, one scale per output row."""

    qtype: ClassVar[str]

    @classmethod
    def _quantize(cls, weight: Tensor) -> dict[str, Tensor]:
        return by_rows(cls._quantize_rows, weight)

    @classmethod
    def _quantize_rows(cls, rows: Tensor) -> dict[str, Tensor]:
        qtype = quanto().qtypes[cls.qtype]
        scale = _never_zero(quanto().AbsmaxOptimizer().optimize(_extremes(rows), qtype, axis=0))  # [out, 1]
        shaped = scale.float() if len(rows) > 1 else scale.float().reshape(())  # quanto's rule for a single row
        data = quanto().quantize_weight(rows.float(), qtype, axis=0, scale=shaped, optimized=False)._data
        return {"weight": data, "weight_scale": scale.flatten()}

    def _quanto_weight(self, dtype: torch.dtype) -> Any:
        size, scale = self.weight.shape, self.weight_scale.to(dtype)[:, None]
        return quanto().WeightQBytesTensor(
            quanto().qtypes[self.qtype], 0, size, self.weight.stride(), self.weight.data, scale, None
        )


class Int8QuantoLinear(_QuantoBytesLinear):
    """quanto's qint8."""

    summary = "optimum-quanto's int8 (qint8)."
    stored = "int8 and a bf16 scale per output row"
    qtype = "qint8"

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return Int8QuantoLinear._quantize(weight)


class Fp8QuantoLinear(_QuantoBytesLinear):
    """quanto's qfloat8."""

    summary = "optimum-quanto's fp8 (qfloat8)."
    stored = "e4m3 and a bf16 scale per output row"
    qtype = "qfloat8_e4m3fn"

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return Fp8QuantoLinear._quantize(weight)


class Int4QuantoLinear(QuantoLinear):
    """Groups along the input, each with a scale and a shift; quanto packs the first half of them with the second."""

    summary = "optimum-quanto's int4 (qint4); the least memory and the most error."
    stored = "4 bits, a bf16 scale and a bf16 shift per 128 inputs"

    weight_shift: Tensor

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        groups = weight.reshape(-1, group_size(weight.shape[1]))  # [groups, size]
        stored = by_rows(_quantize_groups, groups)
        packed = _packed_tensor().pack(stored.pop("weight"), bits=4)._data
        return {"weight": packed, **stored}

    def _quanto_weight(self, dtype: torch.dtype) -> Any:
        size = group_size(self.in_features)
        groups = self.out_features * self.in_features // size
        return quanto().WeightQBitsTensor(
            quanto().qint4,
            0,
            size,
            (self.out_features, self.in_features),
            (self.in_features, 1),
            _packed_tensor()(self.weight.data, 4, (groups, size), (size, 1)),
            self.weight_scale.to(dtype)[:, None],
            self.weight_shift.to(dtype)[:, None],
        )


def group_size(in_features: int) -> int:
    """128 as in the trainer, else quanto's next smaller size that divides the row, else the row."""
    return next((size for size in (128, 96, 64, 32) if in_features % size == 0), in_features)


def _quantize_groups(groups: Tensor) -> dict[str, Tensor]:
    qint4 = quanto().qint4
    scale, shift = quanto().MaxOptimizer().optimize(_extremes(groups), qint4, axis=0)  # [groups, 1] each
    scale, shift = _never_zero(scale), shift.to(torch.bfloat16)
    data = torch.ops.quanto.quantize_affine(
        groups.float(), bits=4, axis=0, group_size=None, scale=scale.float(), shift=shift.float()
    )
    return {"weight": data, "weight_scale": scale.flatten(), "weight_shift": shift.flatten()}


def _extremes(rows: Tensor) -> Tensor:
    """float64 [rows, 2]: all that quanto's optimizers look at.

    In float64 their division gives the same bf16 scale on every device (CUDA divides through the reciprocal).
    """
    return torch.stack(rows.aminmax(dim=1), dim=1).double()


def _never_zero(scale: Tensor) -> Tensor:
    """A row of zeros has the scale 0, and quanto would divide by it."""
    scale = scale.to(torch.bfloat16)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


@cache
def _packed_tensor() -> Any:
    """quanto's packed tensor, unpacked with torch instead of its C++ or CUDA extension."""
    quanto()
    from optimum.quanto.tensor.packed import PackedTensor

    class PortablePackedTensor(PackedTensor):  # type: ignore[misc]
        """`unpack` in two torch operations: low halves of the bytes first, then high halves."""

        def unpack(self) -> Tensor:
            return torch.cat([self._data & 15, self._data >> 4])[: self.shape[0]]

    return PortablePackedTensor
