"""Attention with the weights of a diffusers attention module, in parts, so that keys and values can be cached.

Tokens are [rows, tokens, dim]; keys, values and queries are [rows, heads, tokens, head size].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx_a2v.kernels import gate_heads, norm_and_rotate
from ltx_a2v.kernels.pointwise import Rope

KeyValue = tuple[Tensor, Tensor]


def attend(attn: Any, x: Tensor, source: Tensor, rope: Rope, source_rope: Rope | None = None) -> Tensor:
    """From `x` to `source`; positions by `rope`, those of `source` by `source_rope` where they differ."""
    return query(attn, x, key_value(attn, source, source_rope or rope), rope)


def key_value(attn: Any, source: Tensor, rope: Rope | None = None) -> KeyValue:
    key = _norm(attn.norm_k, attn.to_k(source), rope)
    return _heads(attn, key), _heads(attn, attn.to_v(source))


def query(attn: Any, x: Tensor, key_value: KeyValue, rope: Rope | None = None) -> Tensor:
    """From `x` to keys and values that are already computed, of as many rows as `x` or of one for all."""
    queries = _heads(attn, _norm(attn.norm_q, attn.to_q(x), rope))
    key, value = (t.expand(queries.shape[0], -1, -1, -1) for t in key_value)
    return _project_out(attn, attention(queries, key, value).transpose(1, 2), x)


def values_only(attn: Any, x: Tensor) -> Tensor:
    """Self-attention in which every token attends to itself alone."""
    return _project_out(attn, attn.to_v(x).unflatten(2, (attn.heads, -1)), x)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """On `meta`, where memory is measured, only the output is allocated, as in a fused kernel."""
    return torch.empty_like(query) if query.is_meta else F.scaled_dot_product_attention(query, key, value)


def _project_out(attn: Any, heads: Tensor, x: Tensor) -> Tensor:
    """Gate each head of [rows, tokens, heads, head size] with the gate that `x` gives, and project."""
    return attn.to_out[0](gate_heads(heads, attn.to_gate_logits(x)))


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _norm(norm: nn.Module, x: Tensor, rope: Rope | None) -> Tensor:
    return norm(x) if rope is None else norm_and_rotate(norm, x, rope)
