"""The transformer's forward for training: many clips, each at a sigma of its own, with gradients.

The same method as the product's `diffusion/forward.py` over the same modules: frozen clean audio (timestep and sigma
0), cross-modal scale and shift by a modality's own timesteps and the gate by the other's sigma. Rows may be isolated
(no attention between sound and picture) or perturbed (self-attention gives its values in one block). Texts are shared
by groups of neighbouring rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rope = tuple[Tensor, Tensor]


@dataclass
class Ropes:
    video: Rope
    audio: Rope
    video_cross: Rope
    audio_cross: Rope


@dataclass
class Batch:
    latent: Tensor
    """[B, tokens, 128], noisy where `mask` says so."""
    mask: Tensor
    """[B, t]: share of sigma, by latent frame (and appended picture)."""
    sigma: Tensor
    """[B]"""
    audio: Tensor
    """[B, T, 128]"""
    video_text: Tensor
    """[groups, 1024, video dim]"""
    audio_text: Tensor
    isolated: Tensor
    """[B] of 0 and 1."""
    perturbed: Tensor


def ropes(model: nn.Module, coordinates: Tensor, audio_tokens: int) -> Ropes:
    """`coordinates`: [1 or B, 3, tokens, 2], seconds and pixels where each token begins and ends."""
    device = coordinates.device
    audio = model.audio_rope.prepare_audio_coords(1, audio_tokens, device)
    return Ropes(
        model.rope(coordinates),
        model.audio_rope(audio),
        model.cross_attn_rope(coordinates[:, 0:1]),
        model.cross_attn_audio_rope(audio[:, 0:1]),
    )


def velocity(model: nn.Module, batch: Batch, tables: Ropes, perturbed_block: int) -> Tensor:
    """[B, tokens, 128]."""
    dtype = batch.latent.dtype
    now = batch.sigma[:, None] * model.config.timestep_scale_multiplier
    clean, frames = torch.zeros_like(now[:1]), batch.mask * now
    gate_factor = model.config.cross_attn_timestep_scale_multiplier / model.config.timestep_scale_multiplier

    def embed(layer: nn.Module, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        values, embedded = layer(timesteps.flatten(), batch_size=timesteps.numel(), hidden_dtype=dtype)
        return values.view(*timesteps.shape, -1), embedded.view(*timesteps.shape, -1)

    for_video, embedded = embed(model.time_embed, frames)
    for_text = embed(model.prompt_adaln, now)[0]
    for_cross = embed(model.av_cross_attn_video_scale_shift, frames)[0]
    gate_video = embed(model.av_cross_attn_video_a2v_gate, clean * gate_factor)[0]
    audio_all = embed(model.audio_time_embed, clean)[0]
    audio_text = embed(model.audio_prompt_adaln, clean)[0]
    audio_cross = embed(model.av_cross_attn_audio_scale_shift, clean)[0]
    gate_audio = embed(model.av_cross_attn_audio_v2a_gate, now * gate_factor)[0]

    video, audio = model.proj_in(batch.latent), model.audio_proj_in(batch.audio)
    coupled = (1 - batch.isolated).to(dtype)[:, None, None, None]
    last = len(model.transformer_blocks) - 1
    groups = len(batch.video_text)
    text_sigma = for_text.unflatten(0, (groups, -1))[:, 0]  # rows of a group share one sigma
    for index, block in enumerate(model.transformer_blocks):
        v = _table(block.scale_shift_table, for_video)
        a = _table(block.audio_scale_shift_table, audio_all)
        video = _self_attention(block, video, v, tables.video, batch.perturbed if index == perturbed_block else None)
        shift, scale = _table(block.prompt_scale_shift_table, text_sigma)
        text = _modulate(batch.video_text, scale, shift)
        attended = _grouped(block.attn2, _modulate(_rms(block.norm2, video), v[7], v[6]), text, groups)
        video = _add(video, attended, v[8])
        normed = _modulate(_rms(block.audio_norm1, audio), a[1], a[0])
        audio = _add(audio, _attend(block.audio_attn1, normed, normed, tables.audio, tables.audio), a[2])
        shift, scale = _table(block.audio_prompt_scale_shift_table, audio_text)
        text = _modulate(batch.audio_text, scale, shift)
        attended = _grouped(block.audio_attn2, _modulate(_rms(block.audio_norm2, audio), a[7], a[6]), text, groups)
        audio = _add(audio, attended, a[8])
        video, audio = _cross(
            block, video, audio, tables, for_cross, audio_cross, gate_video, gate_audio, coupled, index < last
        )
        video = _add(video, block.ff(_modulate(_rms(block.norm3, video), v[4], v[3])), v[5])
        if index < last:
            audio = _add(audio, block.audio_ff(_modulate(_rms(block.audio_norm3, audio), a[4], a[3])), a[5])
    shift, scale = _table(model.scale_shift_table, embedded.repeat(1, 1, 2))
    return model.proj_out(_modulate(model.norm_out(video), scale, shift))


def _cross(block, video, audio, tables, for_video, for_audio, gate_video, gate_audio, coupled, audio_used):
    v_table, a_table = block.video_a2v_cross_attn_scale_shift_table, block.audio_a2v_cross_attn_scale_shift_table
    v_scale, v_shift, v_scale_back, v_shift_back = _table(v_table[:4], for_video)
    a_scale, a_shift, a_scale_back, a_shift_back = _table(a_table[:4], for_audio)
    (v_gate,), (a_gate,) = _table(v_table[4:], gate_video), _table(a_table[4:], gate_audio)
    v_normed, a_normed = _rms(block.audio_to_video_norm, video), _rms(block.video_to_audio_norm, audio)
    to_video = _attend(
        block.audio_to_video_attn,
        _modulate(v_normed, v_scale, v_shift),
        _modulate(a_normed, a_scale, a_shift),
        tables.video_cross,
        tables.audio_cross,
    )
    if audio_used:
        to_audio = _attend(
            block.video_to_audio_attn,
            _modulate(a_normed, a_scale_back, a_shift_back),
            _modulate(v_normed, v_scale_back, v_shift_back),
            tables.audio_cross,
            tables.video_cross,
        )
        audio = _add(audio, to_audio, a_gate * coupled)
    return _add(video, to_video, v_gate * coupled), audio


def _self_attention(
    block: nn.Module, video: Tensor, v: tuple[Tensor, ...], rope: Rope, perturbed: Tensor | None
) -> Tensor:
    normed = _modulate(_rms(block.norm1, video), v[1], v[0])
    attended = _attend(block.attn1, normed, normed, rope, rope)
    if perturbed is not None:
        alone = _out(block.attn1, _heads(block.attn1, block.attn1.to_v(normed)), normed)
        attended = torch.where(perturbed.bool()[:, None, None], alone, attended)
    return _add(video, attended, v[2])


def _attend(attn: nn.Module, x: Tensor, source: Tensor, rope: Rope, source_rope: Rope) -> Tensor:
    query = _rotate(_heads(attn, _rms(attn.norm_q, attn.to_q(x))), rope)
    key = _rotate(_heads(attn, _rms(attn.norm_k, attn.to_k(source))), source_rope)
    return _out(attn, F.scaled_dot_product_attention(query, key, _heads(attn, attn.to_v(source))), x)


def _grouped(attn: nn.Module, x: Tensor, text: Tensor, groups: int) -> Tensor:
    """Rows [B, n, dim] look at the text of their group: [groups, 1024, dim]."""
    rows = x.reshape(groups, -1, x.shape[-1])
    query = _heads(attn, _rms(attn.norm_q, attn.to_q(rows)))
    key, value = _heads(attn, _rms(attn.norm_k, attn.to_k(text))), _heads(attn, attn.to_v(text))
    return _out(attn, F.scaled_dot_product_attention(query, key, value), rows).view_as(x)


def _out(attn: nn.Module, heads: Tensor, x: Tensor) -> Tensor:
    gates = 2 * torch.sigmoid(attn.to_gate_logits(x))
    return attn.to_out[0]((heads.transpose(1, 2) * gates[..., None]).flatten(2))


def _rms(norm: nn.Module, x: Tensor) -> Tensor:
    """In torch's fused form, which the modules' own forwards miss."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)


def _heads(attn: nn.Module, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _rotate(x: Tensor, rope: Rope) -> Tensor:
    """[B, heads, n, size]; the two halves of a head turn against each other."""
    cosine, sine = (table.to(x.dtype) for table in rope)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def _table(table: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """[n, dim] + [rows, t, n * dim] -> n of [rows, t, 1, dim]."""
    return tuple(part.unsqueeze(2) for part in (table + values.unflatten(2, table.shape)).unbind(2))


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def _add(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    return x + (change.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)
