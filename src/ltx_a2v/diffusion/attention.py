"""Attention with the weights of a diffusers attention module, in parts, so that keys and values can be cached.

Tokens are [rows, tokens, dim]; keys, values and queries are [rows, heads, tokens, head size].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx_a2v.kernels import Activation, Form, gate_heads, norm_and_rotate
from ltx_a2v.kernels.pointwise import Rope
from ltx_a2v.quantization.apply import form_for, project

KeyValue = tuple[Tensor, Tensor]


def query_form(attn: Any) -> Form:
    """What `query` takes `x` as."""
    return form_for(attn.to_q, attn.to_gate_logits)


def source_form(attn: Any) -> Form:
    """What `key_value` takes `source` as."""
    return form_for(attn.to_k, attn.to_v)


def attend(attn: Any, x: Activation, source: Activation, rope: Rope, source_rope: Rope | None = None) -> Tensor:
    """From `x` to `source`; positions by `rope`, those of `source` by `source_rope` where they differ."""
    return query(attn, x, key_value(attn, source, source_rope or rope), rope)


def key_value(attn: Any, source: Activation, rope: Rope | None = None) -> KeyValue:
    key = _norm(attn.norm_k, project(attn.to_k, source), rope)
    return _heads(attn, key), _heads(attn, project(attn.to_v, source))


def query(attn: Any, x: Activation, key_value: KeyValue, rope: Rope | None = None) -> Tensor:
    """From `x` to keys and values that are already computed, of as many rows as `x` or of one for all."""
    return _project_out(attn, [_attention(_queries(attn, x, rope), key_value)], x)


def query_each(attn: Any, x: Activation, texts: Sequence[KeyValue], of_row: Sequence[int]) -> Tensor:
    """From each row of `x` to the one of `texts` that `of_row` names for it.

    Neighbours with a common text attend to it together: repeating keys and values for every row would copy both in
    each block.
    """
    queries = _queries(attn, x, None)
    parts, first = [], 0
    for text, rows in groupby(of_row):
        last = first + len(list(rows))
        parts.append(_attention(queries[first:last], texts[text]))
        first = last
    return _project_out(attn, parts, x)


def values_only(attn: Any, x: Activation) -> Tensor:
    """Self-attention in which every token attends to itself alone."""
    return _project_out(attn, [project(attn.to_v, x).unflatten(2, (attn.heads, -1))], x)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """On `meta`, where memory is measured, only the output is allocated, as in a fused kernel."""
    return torch.empty_like(query) if query.is_meta else F.scaled_dot_product_attention(query, key, value)


def _attention(queries: Tensor, key_value: KeyValue) -> Tensor:
    """[rows, tokens, heads, head size]"""
    key, value = (t.expand(queries.shape[0], -1, -1, -1) for t in key_value)
    return attention(queries, key, value).transpose(1, 2)


def _queries(attn: Any, x: Activation, rope: Rope | None) -> Tensor:
    return _heads(attn, _norm(attn.norm_q, project(attn.to_q, x), rope))


def _project_out(attn: Any, parts: Sequence[Tensor], x: Activation) -> Tensor:
    """Gate each head of `parts`, rows of [rows, tokens, heads, head size], with the gate that `x` gives, and
    project."""
    out = attn.to_out[0]
    return project(out, gate_heads(parts, attn.to_gate_logits(x.tensor), form_for(out)))


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _norm(norm: nn.Module, x: Tensor, rope: Rope | None) -> Tensor:
    return norm(x) if rope is None else norm_and_rotate(norm, x, rope)
