"""The audio-to-video forward over diffusers' transformer blocks.

Each block is visited once per step for all passes together, so that weights which are streamed cross the bus once per
step. Passes are rows of a batch. They start as one row and part where they begin to differ:

    negative    at the text attention of block 0
    isolated    at the audio-to-video attention of block 0
    perturbed   at the self-attention of the first perturbed block

What only the unused audio output depends on is not computed, nor the audio of the isolated pass, which never reaches
the picture. All of this is exact.

Three things differ from diffusers' own forward and follow the reference (docs/how-it-works.md): the frozen audio has
timestep 0 and sigma 0; cross-modal scale and shift take the modality's own timesteps but the gate the other's sigma;
the perturbed pass perturbs the video's self-attention only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.kernels import add_gated, gate_heads, modulate, norm_and_modulate, norm_and_rotate
from ltx_a2v.kernels.pointwise import Rope

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, [rows, heads, tokens, head size]."""
_Adaln = tuple[Tensor, ...]
"""Shift, scale and gate, [1, t, 1, dim]."""


@dataclass(frozen=True)
class StageInputs:
    """What stays the same during a stage."""

    grid: LatentGrid
    frame_rate: float
    mask: Tensor
    """[1, frames, 1, 1]: the share of sigma that each latent frame has."""
    audio_tokens: Tensor
    """[1, T, 128], clean."""
    positive_text: Tensor
    """[1, 1024, video dim]"""
    negative_text: Tensor
    audio_text: Tensor
    """[1, 1024, audio dim], positive."""


@dataclass(frozen=True)
class _Ropes:
    video: Rope
    audio: Rope
    video_cross: Rope
    audio_cross: Rope


@dataclass(frozen=True)
class _Modulation:
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


class _Rows:
    """The passes that have a row of their own, in the order of `Pass`; the others still share the positive one's."""

    def __init__(self) -> None:
        self.kinds = [Pass.POSITIVE]

    def part(self, kind: Pass, video: Tensor) -> Tensor:
        """Give `kind` its own row: a copy of the positive one's."""
        parted = video[self.positive]
        place = sum(other < kind for other in self.kinds)
        self.kinds.insert(place, kind)
        return torch.cat([video[:place], parted, video[place:]])

    def follow(self, audio: Tensor) -> Tensor:
        """Give a pass that has just parted its audio row; the audio's positive row is always its first."""
        wanted = len(self.kinds) - (Pass.ISOLATED in self.kinds)
        return audio if audio.shape[0] in (1, wanted) else torch.cat([audio, audio[:1]])

    @property
    def positive(self) -> slice:
        index = self.kinds.index(Pass.POSITIVE)
        return slice(index, index + 1)

    @property
    def with_audio(self) -> slice:
        return slice(int(Pass.ISOLATED in self.kinds), None)

    def of_texts(self, parts: Iterable[Tensor]) -> Tensor:
        """Both texts, the positive first, in one part or two -> the text that each row attends to.

        Put together from views: a tensor of indices would be copied to the device, for which the CPU would wait in
        every block until the GPU has caught up.
        """
        texts = [text for part in parts for text in part.split(1)]
        return torch.cat([texts[kind is Pass.NEGATIVE] for kind in self.kinds])


class StageForward:
    """Velocities of all passes for one stage.

    `blocks` gives the transformer's blocks in order, each ready to compute, once per call. With `exact_passes` every
    row goes through its own GEMMs: bitwise what separate forwards give, and slower.
    """

    def __init__(
        self,
        transformer: Any,
        inputs: StageInputs,
        passes: frozenset[Pass],
        perturbed_blocks: frozenset[int] = frozenset(),
        blocks: Callable[[], Iterable[Any]] | None = None,
        exact_passes: bool = False,
    ) -> None:
        self._transformer = transformer
        self._inputs = inputs
        self._passes = passes
        self._perturbed_blocks = perturbed_blocks if Pass.PERTURBED in passes else frozenset()
        self._blocks = blocks or (lambda: transformer.transformer_blocks)
        self._exact = exact_passes
        self._ropes = _make_ropes(transformer, inputs)
        self._texts = torch.cat([inputs.positive_text] + [inputs.negative_text] * (Pass.NEGATIVE in passes))
        self._audio_text: dict[int, KeyValue] = {}

    def velocities(self, latent: Tensor, sigma: Tensor) -> dict[Pass, Tensor]:
        """Packed latent [1, tokens, 128] at `sigma` -> velocity [1, tokens, 128] of every pass."""
        modulation = _modulation(self._transformer, self._inputs, sigma, latent.dtype)
        video = self._transformer.proj_in(latent)
        audio = self._transformer.audio_proj_in(self._inputs.audio_tokens)
        rows = _Rows()
        last = len(self._transformer.transformer_blocks) - 1
        for index, block in enumerate(self._blocks()):
            for_video = _table(block.scale_shift_table, modulation.video)
            for_audio = _table(block.audio_scale_shift_table, modulation.audio)
            video = self._video_self_attention(block, index, rows, video, for_video[0:3])
            if index == 0 and Pass.NEGATIVE in self._passes:
                video = rows.part(Pass.NEGATIVE, video)
            video = self._video_text_attention(block, rows, video, for_video[6:9], modulation)
            audio = self._audio_self_attention(block, audio, for_audio[0:3])
            audio = rows.follow(self._audio_text_attention(block, index, audio, for_audio[6:9], modulation))
            if index == 0 and Pass.ISOLATED in self._passes:
                video = rows.part(Pass.ISOLATED, video)
            video, audio = self._cross_attention(block, rows, video, audio, modulation, audio_used=index < last)
            video = self._feed_forward(block.ff, block.norm3, video, for_video[3:6])
            if index < last:
                audio = self._feed_forward(block.audio_ff, block.audio_norm3, audio, for_audio[3:6])
        velocity = self._each_row(lambda x: _output(self._transformer, x, modulation.output), video)
        return {kind: velocity[i : i + 1] for i, kind in enumerate(rows.kinds)}

    def _video_self_attention(self, block: Any, index: int, rows: _Rows, video: Tensor, adaln: _Adaln) -> Tensor:
        shift, scale, gate = adaln
        normed = norm_and_modulate(block.norm1, video, scale, shift)
        if index not in self._perturbed_blocks:
            attended = self._each_row(lambda x: _attend(block.attn1, x, x, self._ropes.video), normed)
            return add_gated(video, attended, gate)
        if Pass.PERTURBED in rows.kinds:
            attending, valued = normed[:-1], normed[-1:]
        else:
            attending, valued = normed, normed[rows.positive]
            video = rows.part(Pass.PERTURBED, video)
        attended = self._each_row(lambda x: _attend(block.attn1, x, x, self._ropes.video), attending)
        return add_gated(video, torch.cat([attended, _values_only(block.attn1, valued)]), gate)

    def _video_text_attention(
        self, block: Any, rows: _Rows, video: Tensor, adaln: _Adaln, modulation: _Modulation
    ) -> Tensor:
        shift, scale, gate = adaln
        text_shift, text_scale = _table(block.prompt_scale_shift_table, modulation.video_text)
        texts = [
            _key_value(block.attn2, modulate(text, text_scale, text_shift))
            for text in (self._texts.split(1) if self._exact else [self._texts])
        ]
        key, value = (rows.of_texts(parts) for parts in zip(*texts, strict=True))
        normed = norm_and_modulate(block.norm2, video, scale, shift)
        attended = self._each_row(lambda x, k, v: _query(block.attn2, x, (k, v)), normed, key, value)
        return add_gated(video, attended, gate)

    def _audio_self_attention(self, block: Any, audio: Tensor, adaln: _Adaln) -> Tensor:
        shift, scale, gate = adaln
        normed = norm_and_modulate(block.audio_norm1, audio, scale, shift)
        attended = self._each_row(lambda x: _attend(block.audio_attn1, x, x, self._ropes.audio), normed)
        return add_gated(audio, attended, gate)

    def _audio_text_attention(
        self, block: Any, index: int, audio: Tensor, adaln: _Adaln, modulation: _Modulation
    ) -> Tensor:
        shift, scale, gate = adaln
        if index not in self._audio_text:
            text_shift, text_scale = _table(block.audio_prompt_scale_shift_table, modulation.audio_text)
            text = modulate(self._inputs.audio_text, text_scale, text_shift)
            self._audio_text[index] = _key_value(block.audio_attn2, text)
        key_value = self._audio_text[index]
        normed = norm_and_modulate(block.audio_norm2, audio, scale, shift)
        return add_gated(audio, self._each_row(lambda x: _query(block.audio_attn2, x, key_value), normed), gate)

    def _cross_attention(
        self, block: Any, rows: _Rows, video: Tensor, audio: Tensor, modulation: _Modulation, audio_used: bool
    ) -> tuple[Tensor, Tensor]:
        """Audio to video and video to audio, both from the states before either."""
        v_table, a_table = block.video_a2v_cross_attn_scale_shift_table, block.audio_a2v_cross_attn_scale_shift_table
        v_scale, v_shift, v_scale_back, v_shift_back = _table(v_table[:4], modulation.video_cross)
        a_scale, a_shift, a_scale_back, a_shift_back = _table(a_table[:4], modulation.audio_cross)
        (v_gate,) = _table(v_table[4:], modulation.video_gate)
        (a_gate,) = _table(a_table[4:], modulation.audio_gate)

        alone, coupled = video[: rows.with_audio.start], video[rows.with_audio]
        to_video = self._each_row(
            lambda x, a: _attend(block.audio_to_video_attn, x, a, self._ropes.video_cross, self._ropes.audio_cross),
            norm_and_modulate(block.audio_to_video_norm, coupled, v_scale, v_shift),
            _as_rows(norm_and_modulate(block.video_to_audio_norm, audio, a_scale, a_shift), coupled),
        )
        coupled_after = add_gated(coupled, to_video, v_gate)
        video = torch.cat([alone, coupled_after]) if len(alone) else coupled_after
        if not audio_used:
            return video, audio
        to_audio = self._each_row(
            lambda x, v: _attend(block.video_to_audio_attn, x, v, self._ropes.audio_cross, self._ropes.video_cross),
            _as_rows(norm_and_modulate(block.video_to_audio_norm, audio, a_scale_back, a_shift_back), coupled),
            norm_and_modulate(block.audio_to_video_norm, coupled, v_scale_back, v_shift_back),
        )
        return video, add_gated(audio, to_audio, a_gate)

    def _feed_forward(self, layer: nn.Module, norm: nn.Module, x: Tensor, adaln: _Adaln) -> Tensor:
        shift, scale, gate = adaln
        return add_gated(x, self._each_row(layer, norm_and_modulate(norm, x, scale, shift)), gate)

    def _each_row(self, compute: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        if not self._exact or rows[0].shape[0] == 1:
            return compute(*rows)
        return torch.cat([compute(*row) for row in zip(*(t.split(1) for t in rows), strict=True)])


def _make_ropes(transformer: Any, inputs: StageInputs) -> _Ropes:
    grid, device = inputs.grid, inputs.audio_tokens.device
    video = transformer.rope.prepare_video_coords(
        1, grid.frames, grid.height, grid.width, device, fps=inputs.frame_rate
    )
    audio = transformer.audio_rope.prepare_audio_coords(1, inputs.audio_tokens.shape[1], device)
    return _Ropes(
        video=transformer.rope(video),
        audio=transformer.audio_rope(audio),
        video_cross=transformer.cross_attn_rope(video[:, 0:1]),
        audio_cross=transformer.cross_attn_audio_rope(audio[:, 0:1]),
    )


def _modulation(transformer: Any, inputs: StageInputs, sigma: Tensor, dtype: torch.dtype) -> _Modulation:
    config, device = transformer.config, inputs.mask.device
    now = torch.full((1,), float(sigma * config.timestep_scale_multiplier), device=device)
    clean = torch.zeros_like(now)
    frames = inputs.mask.view(-1) * now
    gate_factor = config.cross_attn_timestep_scale_multiplier / config.timestep_scale_multiplier

    def embed(layer: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        values, embedded = layer(timesteps, batch_size=1, hidden_dtype=dtype)
        return values[None], embedded[None]  # [1, timesteps, n * dim], [1, timesteps, dim]

    video, output = embed(transformer.time_embed, frames)
    return _Modulation(
        video=video,
        video_text=embed(transformer.prompt_adaln, now)[0],
        video_cross=embed(transformer.av_cross_attn_video_scale_shift, frames)[0],
        video_gate=embed(transformer.av_cross_attn_video_a2v_gate, clean * gate_factor)[0],
        audio=embed(transformer.audio_time_embed, clean)[0],
        audio_text=embed(transformer.audio_prompt_adaln, clean)[0],
        audio_cross=embed(transformer.av_cross_attn_audio_scale_shift, clean)[0],
        audio_gate=embed(transformer.av_cross_attn_audio_v2a_gate, now * gate_factor)[0],
        output=output,
    )


def _table(table: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """A block's own table [n, dim] + the step's values [1, t, n * dim] -> n of [1, t, 1, dim]."""
    return tuple(part.unsqueeze(2) for part in (table + values.unflatten(2, table.shape)).unbind(2))


def _as_rows(audio: Tensor, video: Tensor) -> Tensor:
    """Before the first video-to-audio attention all rows share one audio."""
    return audio.expand(video.shape[0], -1, -1)


def _attend(attn: Any, x: Tensor, source: Tensor, rope: Rope, source_rope: Rope | None = None) -> Tensor:
    return _query(attn, x, _key_value(attn, source, source_rope or rope), rope)


def _key_value(attn: Any, source: Tensor, rope: Rope | None = None) -> KeyValue:
    key = _norm(attn.norm_k, attn.to_k(source), rope)
    return _heads(attn, key), _heads(attn, attn.to_v(source))


def _query(attn: Any, x: Tensor, key_value: KeyValue, rope: Rope | None = None) -> Tensor:
    query = _heads(attn, _norm(attn.norm_q, attn.to_q(x), rope))
    key, value = (t.expand(query.shape[0], -1, -1, -1) for t in key_value)
    return _project_out(attn, _attention(query, key, value).transpose(1, 2), x)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """On `meta`, where memory is measured, what a fused kernel takes: its output."""
    return torch.empty_like(query) if query.is_meta else F.scaled_dot_product_attention(query, key, value)


def _values_only(attn: Any, x: Tensor) -> Tensor:
    """Self-attention in which every token attends to itself alone."""
    return _project_out(attn, attn.to_v(x).unflatten(2, (attn.heads, -1)), x)


def _project_out(attn: Any, heads: Tensor, x: Tensor) -> Tensor:
    """Gate each head of [rows, tokens, heads, head size] by what `x` says, and project."""
    return attn.to_out[0](gate_heads(heads, attn.to_gate_logits(x)))


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _norm(norm: nn.Module, x: Tensor, rope: Rope | None) -> Tensor:
    return norm(x) if rope is None else norm_and_rotate(norm, x, rope)


def _output(transformer: Any, x: Tensor, embedded: Tensor) -> Tensor:
    shift, scale = (part.unsqueeze(2) for part in (transformer.scale_shift_table + embedded.unsqueeze(2)).unbind(2))
    return transformer.proj_out(modulate(transformer.norm_out(x), scale, shift))
