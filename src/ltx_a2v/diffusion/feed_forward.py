"""A diffusers feed-forward layer: two linears with GELU between them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ltx_a2v.kernels import Activation, Form
from ltx_a2v.quantization.apply import form_for, project, project_gelu


def feed_forward(layer: Any, x: Activation) -> Tensor:
    """[rows, tokens, dim] -> the same."""
    first, second = _linears(layer)
    return project(second, project_gelu(first, x, form_for(second)))


def feed_forward_form(layer: Any) -> Form:
    """What `feed_forward` takes its input as."""
    return form_for(_linears(layer)[0])


def _linears(layer: Any) -> tuple[Any, Any]:
    assert layer.net[0].approximate == "tanh"
    return layer.net[0].proj, layer.net[2]
