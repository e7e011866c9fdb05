"""One transformer block for all rows of a batch: a function of the block's weights, a `BlockState` and a `BlockPlan`.

It has no other inputs and no state, branches only on the plan and never synchronises with the device. So blocks with
equal plans and shapes are the same sequence of kernels, which a CUDA graph can replay.

Three things differ from diffusers' own block and follow the reference (docs/how-it-works.md): the frozen audio has
timestep 0 and sigma 0; cross-modal scale and shift take the modality's own timesteps but the gate the other's sigma;
the perturbed pass perturbs the video's self-attention only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.diffusion.attention import (
    KeyValue,
    attend,
    key_value,
    query,
    query_each,
    query_form,
    source_form,
    values_only,
)
from ltx_a2v.diffusion.block_plan import BlockPlan
from ltx_a2v.diffusion.feed_forward import feed_forward, feed_forward_form
from ltx_a2v.kernels import Activation, add_gated, add_gated_, modulate, norm_and_modulate
from ltx_a2v.kernels.pointwise import Rope

_Adaln = tuple[Tensor, ...]
"""Shift, scale and gate, [1, t, 1, dim]."""


@dataclass(frozen=True)
class Ropes:
    """Rotary tables of self-attention and of the attention between video and audio; the same during a stage."""

    video: Rope
    audio: Rope
    video_cross: Rope
    audio_cross: Rope


@dataclass(frozen=True)
class Modulation:
    """AdaLN values of one step, to which each block adds its own table: [1, t, n * dim], where t is the number of
    latent frames for what follows the picture's mask and 1 for the rest."""

    video: Tensor
    video_text: Tensor
    video_cross: Tensor
    video_gate: Tensor
    audio: Tensor
    audio_text: Tensor
    audio_cross: Tensor
    audio_gate: Tensor
    output: Tensor


@dataclass
class BlockState:
    """The inputs of a block, with `video` and `audio`, which it replaces."""

    video: Tensor
    """[rows, tokens, video dim]"""
    audio: Tensor
    """[rows that attend to it or 1, audio tokens, audio dim]"""
    texts: Tensor
    """[texts of the stage's plan, text tokens, video dim]"""
    audio_text: KeyValue | None
    """This block's keys and values of the audio's text (`audio_text_of`); None where the plan has no audio."""
    modulation: Modulation
    ropes: Ropes


def block_step(block: Any, state: BlockState, plan: BlockPlan) -> BlockState:
    """Take `state` through `block`, a `LTX2VideoTransformerBlock`.

    The state is changed and returned: each part replaces the video or the audio at once, so that the video at the start
    of a block is not held until its end. The tensors that were given stay as they are: the first sum of a block makes a
    new tensor, and later ones are written over it.
    """
    for_video = _table(block.scale_shift_table, state.modulation.video)
    _video_self_attention(block, state, plan, for_video[0:3])
    _video_text_attention(block, state, plan, for_video[6:9])
    for_audio: _Adaln = ()
    if plan.audio is not None:
        for_audio = _table(block.audio_scale_shift_table, state.modulation.audio)
        _audio_self_attention(block, state, plan, for_audio[0:3])
        _audio_text_attention(block, state, plan, for_audio[6:9])
    state.video = _copied(state.video, plan.cross_attention)
    if plan.audio is not None:
        _cross_attention(block, state, plan)
    _feed_forward(block.ff, block.norm3, state.video, for_video[3:6], plan)
    if plan.audio_used:
        _feed_forward(block.audio_ff, block.audio_norm3, state.audio, for_audio[3:6], plan)
    return state


def audio_text_of(block: Any, text: Tensor, modulation: Modulation) -> KeyValue:
    """Keys and values of the audio's text [1, tokens, audio dim] in `block`: the same in every step, as the audio's
    timestep is always 0."""
    shift, scale = _table(block.audio_prompt_scale_shift_table, modulation.audio_text)
    attn = block.audio_attn2
    return key_value(attn, modulate(text, scale, shift, source_form(attn)))


def output_of(transformer: Any, video: Tensor, modulation: Modulation, plan: BlockPlan) -> Tensor:
    """Rows after the last block -> their velocities [rows, tokens, channels]."""
    table = transformer.scale_shift_table + modulation.output.unsqueeze(2)
    shift, scale = (part.unsqueeze(2) for part in table.unbind(2))
    return _each_row(
        plan, lambda x: transformer.proj_out(modulate(transformer.norm_out(x), scale, shift).tensor), video
    )


def _video_self_attention(block: Any, state: BlockState, plan: BlockPlan, adaln: _Adaln) -> None:
    attn, rope = block.attn1, state.ropes.video
    shift, scale, gate = adaln
    normed = norm_and_modulate(block.norm1, state.video, scale, shift, query_form(attn) | source_form(attn))
    state.video = _copied(state.video, plan.self_attention)
    attended = [_each_row(plan, lambda x: attend(attn, x, x, rope), normed[: plan.attending])] if plan.attending else []
    if plan.values_of is not None:
        attended.append(values_only(attn, normed[plan.values_of : plan.values_of + 1]))
    del normed
    state.video = add_gated(state.video, attended[0] if len(attended) == 1 else torch.cat(attended), gate)


def _video_text_attention(block: Any, state: BlockState, plan: BlockPlan, adaln: _Adaln) -> None:
    attn = block.attn2
    shift, scale, gate = adaln
    state.video = _copied(state.video, plan.text_attention)
    text_shift, text_scale = _table(block.prompt_scale_shift_table, state.modulation.video_text)
    together = [
        key_value(attn, modulate(text, text_scale, text_shift, source_form(attn)))
        for text in (state.texts.split(1) if plan.exact else [state.texts])
    ]
    texts = [alone for keys, values in together for alone in zip(keys.split(1), values.split(1), strict=True)]
    normed = norm_and_modulate(block.norm2, state.video, scale, shift, query_form(attn))
    attended = _each_row(plan, lambda x, of_row: query_each(attn, x, texts, of_row), normed, plan.texts)
    add_gated_(state.video, attended, gate)


def _audio_self_attention(block: Any, state: BlockState, plan: BlockPlan, adaln: _Adaln) -> None:
    attn, rope = block.audio_attn1, state.ropes.audio
    shift, scale, gate = adaln
    normed = norm_and_modulate(block.audio_norm1, state.audio, scale, shift, query_form(attn) | source_form(attn))
    state.audio = add_gated(state.audio, _each_row(plan, lambda x: attend(attn, x, x, rope), normed), gate)


def _audio_text_attention(block: Any, state: BlockState, plan: BlockPlan, adaln: _Adaln) -> None:
    assert state.audio_text is not None
    assert plan.audio is not None
    attn, text = block.audio_attn2, state.audio_text
    shift, scale, gate = adaln
    normed = norm_and_modulate(block.audio_norm2, state.audio, scale, shift, query_form(attn))
    add_gated_(state.audio, _each_row(plan, lambda x: query(attn, x, text), normed), gate)
    state.audio = _copied(state.audio, plan.audio)


def _cross_attention(block: Any, state: BlockState, plan: BlockPlan) -> None:
    """Video to audio and audio to video, both from the states before either: the video is written over last."""
    modulation, ropes = state.modulation, state.ropes
    v_table, a_table = block.video_a2v_cross_attn_scale_shift_table, block.audio_a2v_cross_attn_scale_shift_table
    v_scale, v_shift, v_scale_back, v_shift_back = _table(v_table[:4], modulation.video_cross)
    a_scale, a_shift, a_scale_back, a_shift_back = _table(a_table[:4], modulation.audio_cross)
    (v_gate,) = _table(v_table[4:], modulation.video_gate)
    (a_gate,) = _table(a_table[4:], modulation.audio_gate)
    v_norm, a_norm = block.audio_to_video_norm, block.video_to_audio_norm

    hearing, audio = state.video[plan.isolated :], state.audio
    rows = len(hearing)
    if plan.audio_used:
        attn = block.video_to_audio_attn
        to_audio = _each_row(
            plan,
            lambda x, v: attend(attn, x, v, ropes.audio_cross, ropes.video_cross),
            _as_rows(norm_and_modulate(a_norm, audio, a_scale_back, a_shift_back, query_form(attn)), rows),
            norm_and_modulate(v_norm, hearing, v_scale_back, v_shift_back, source_form(attn)),
        )
        state.audio = add_gated(audio.expand(rows, -1, -1), to_audio, a_gate)
    attn = block.audio_to_video_attn
    to_video = _each_row(
        plan,
        lambda x, a: attend(attn, x, a, ropes.video_cross, ropes.audio_cross),
        norm_and_modulate(v_norm, hearing, v_scale, v_shift, query_form(attn)),
        _as_rows(norm_and_modulate(a_norm, audio, a_scale, a_shift, source_form(attn)), rows),
    )
    add_gated_(hearing, to_video, v_gate)


def _feed_forward(layer: nn.Module, norm: nn.Module, x: Tensor, adaln: _Adaln, plan: BlockPlan) -> None:
    """Written over `x`."""
    shift, scale, gate = adaln
    normed = norm_and_modulate(norm, x, scale, shift, feed_forward_form(layer))
    add_gated_(x, _each_row(plan, lambda x: feed_forward(layer, x), normed), gate)


def _each_row(plan: BlockPlan, compute: Callable[..., Tensor], *rows: Any) -> Tensor:
    """`compute` of all rows at once, or of each row alone where the plan is exact."""
    count = len(rows[0])
    if not plan.exact or count == 1:
        return compute(*rows)
    return torch.cat([compute(*(of_all[row : row + 1] for of_all in rows)) for row in range(count)])


def _table(table: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """A block's own table [n, dim] + the step's values [1, t, n * dim] -> n of [1, t, 1, dim]."""
    return tuple(part.unsqueeze(2) for part in (table + values.unflatten(2, table.shape)).unbind(2))


def _copied(x: Tensor, rows: tuple[int, ...]) -> Tensor:
    """The rows of `x` with these numbers, put together from views; `x` itself where they are all of them in order.

    A tensor of indices would be copied to the device, which would synchronise CPU and GPU in every block.
    """
    if rows == tuple(range(len(x))):
        return x
    return x[rows[0] : rows[0] + 1] if len(rows) == 1 else torch.cat([x[row : row + 1] for row in rows])


def _as_rows(audio: Activation, rows: int) -> Activation:
    """Before the first video-to-audio attention all rows share one audio."""
    return audio if len(audio) == rows else audio.expand(rows)
