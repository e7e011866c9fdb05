"""How a linear layer of any format is applied: to an activation, with a LoRA, with GELU after it.

A LoRA changes the weight of a layer by B A, and there are two forms of that:

    separate  W x + B (A x)     2 tokens rank (in + out) operations, and the output is read and written again
    merged    (W + B A) x       2 rank in out operations, and W + B A is rounded to the working dtype

Merged is cheaper from in out / (in + out) tokens on, whatever the rank: 2,048 for 4096 x 4096. It needs a weight that
is in the working dtype anyway, unquantized or upcast; the sum is a temporary tensor, and the stored weight never
changes. The form depends on the layer, its format and the number of tokens only: every placement of the weights gives
the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v.kernels import Activation, Form, fused_on, gelu_, merge_low_rank
from ltx_a2v.quantization.linear import StoredLinear


class LowRank(Protocol):
    """A LoRA of one layer. The factors are read at each use: they may be streamed."""

    @property
    def down(self) -> Tensor:
        """A: [rank, in]."""

    @property
    def up(self) -> Tensor:
        """B: [out, rank], strength included."""


def form_for(*layers: nn.Linear) -> Form:
    """The forms in which these layers together take an input that they share."""
    form = Form(0)
    for layer in layers:
        form |= _form_of(layer)
        if _loras(layer) and not _upcasts(layer):
            form |= Form.VALUES
    return form


def project(layer: nn.Linear, x: Activation) -> Tensor:
    """`x` must be in the forms that `form_for` says."""
    return cast(Tensor, layer(x if _form_of(layer) & Form.E4M3 else x.tensor))


def project_gelu(layer: nn.Linear, x: Activation, form: Form) -> Activation:
    """GELU of the layer's output, as `form`. On a GPU a layer in bfloat16 computes it in its GEMM."""
    if form == Form.VALUES and layer.bias is not None and x.values is not None and fused_on(x.values):
        weight = _whole_weight(layer, x.tokens, x.values.dtype)
        if weight is not None:
            return Activation(_gelu_gemm(x.values, weight, layer.bias.to(x.values.dtype)))
    return gelu_(project(layer, x), form)


@contextmanager
def adapted(layer: nn.Linear, lora: LowRank) -> Iterator[None]:
    """The layer with `lora`, in addition to those that it has, while the context lasts."""
    before = _loras(layer)
    state: dict[str, Any] = layer.__dict__
    state["_loras"] = (*before, lora)
    state["forward"] = partial(_forward, layer)
    try:
        yield
    finally:
        state["_loras"] = before
        if not before:
            del state["forward"]


def merges(layer: nn.Linear, tokens: int) -> bool:
    """Whether a LoRA of `layer` is merged for that many tokens: where this is possible and cheaper."""
    return (
        _upcasts(layer) and tokens * (layer.in_features + layer.out_features) > layer.in_features * layer.out_features
    )


def _forward(layer: nn.Linear, x: Tensor | Activation) -> Tensor:
    values = x if isinstance(x, Tensor) else x.tensor
    weight = _whole_weight(layer, values.numel() // layer.in_features, values.dtype)
    if weight is not None:
        return F.linear(values, weight, None if layer.bias is None else layer.bias.to(values.dtype))
    output = type(layer).forward(layer, cast(Tensor, x))
    for lora in _loras(layer):
        narrow = F.linear(values, lora.down).flatten(0, -2)  # [tokens, rank]
        # In place: at full size the sum is as large as all other activations of a feed-forward.
        output = output.flatten(0, -2).addmm_(narrow, lora.up.t()).view_as(output)
    return output


def _whole_weight(layer: nn.Linear, tokens: int, dtype: torch.dtype) -> Tensor | None:
    """The layer's weight in `dtype`, LoRAs merged; None where the layer multiplies in another way, or LoRAs stay
    separate."""
    loras = _loras(layer)
    if not (merges(layer, tokens) if loras else _upcasts(layer)):
        return None
    if not loras:
        return layer.dequantize(dtype) if isinstance(layer, StoredLinear) else layer.weight.to(dtype)
    first, *others = loras
    stored, scale = layer.to_merge(dtype) if isinstance(layer, StoredLinear) else (layer.weight, None)
    weight = merge_low_rank(stored, scale, first.up, first.down, dtype)
    for lora in others:
        weight.addmm_(lora.up, lora.down)
    return weight


def _gelu_gemm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    tokens = x.flatten(0, -2)
    if x.is_meta:
        return x.new_empty((*x.shape[:-1], len(weight)))
    return torch._addmm_activation(bias, tokens, weight.t(), use_gelu=True).view(*x.shape[:-1], len(weight))


def _form_of(layer: nn.Linear) -> Form:
    return layer.input_form() if isinstance(layer, StoredLinear) else Form.VALUES


def _upcasts(layer: nn.Linear) -> bool:
    return layer.upcasts if isinstance(layer, StoredLinear) else True


def _loras(layer: nn.Linear) -> tuple[LowRank, ...]:
    return cast(tuple[LowRank, ...], layer.__dict__.get("_loras", ()))
