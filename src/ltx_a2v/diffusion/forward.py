"""Velocities of all passes of a step: the transformer's forward for one stage.

Each block is visited once per step for all passes together. `block_plan` decides once which passes share a row, and
`block_step` is the computation of a block. This module adds the inputs of a stage: rotary tables, texts, the keys and
values of the audio's text, and the modulation of each step. Values that only the unused audio output needs are not
computed, nor is the audio of the isolated pass, which does not affect the video. All of this is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltx_a2v.diffusion.attention import KeyValue
from ltx_a2v.diffusion.block_plan import plan_stage
from ltx_a2v.diffusion.block_step import BlockState, Modulation, Ropes, audio_text_of, block_step, output_of
from ltx_a2v.diffusion.graphs import StageGraphs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid


@dataclass(frozen=True)
class StageInputs:
    """What stays the same during a stage."""

    grid: LatentGrid
    frame_rate: float
    mask: Tensor
    """[1, frames + appended, 1, 1]: the factor on sigma of each latent frame and each appended picture."""
    audio_tokens: Tensor
    """[1, T, audio channels], clean."""
    positive_text: Tensor
    """[1, text tokens, video dim]"""
    negative_text: Tensor
    audio_text: Tensor
    """[1, text tokens, audio dim], positive."""
    appended: tuple[int, ...] = ()
    """The frame of the video at which each appended picture is shown."""


class StageForward:
    """Velocities of some passes, or of all, for one stage.

    `blocks` gives the transformer's blocks in order, each ready to compute, once per call. With `exact_passes` every
    row has its own GEMMs: equal to separate forwards, bit for bit, and slower. `graphs` replay blocks, with the same
    bits.
    """

    def __init__(
        self,
        transformer: Any,
        inputs: StageInputs,
        passes: frozenset[Pass],
        perturbed_blocks: frozenset[int] = frozenset(),
        blocks: Callable[[], Iterable[Any]] | None = None,
        exact_passes: bool = False,
        graphs: StageGraphs | None = None,
    ) -> None:
        self._transformer = transformer
        self._graphs = graphs
        self._inputs = inputs
        self._blocks = blocks or (lambda: transformer.transformer_blocks)
        self._plan = plan_stage(passes, perturbed_blocks, len(transformer.transformer_blocks), exact_passes)
        self._ropes = _make_ropes(transformer, inputs)
        texts = {Pass.POSITIVE: inputs.positive_text, Pass.NEGATIVE: inputs.negative_text}
        self._texts = torch.cat([texts[text] for text in self._plan.texts])
        self._audio_text: dict[int, KeyValue] = {}

    def velocities(self, latent: Tensor, sigma: Tensor) -> dict[Pass, Tensor]:
        """Packed latent [1, tokens, channels] at `sigma` -> velocity [1, tokens, channels] of every pass."""
        state = self._through_blocks(self._start(latent, sigma))
        plans = self._plan.blocks
        velocity = output_of(self._transformer, state.video, state.modulation, plans[-1])
        return {kind: velocity[i : i + 1] for i, row in enumerate(self._plan.rows) for kind in row}

    def _through_blocks(self, state: BlockState) -> BlockState:
        plans, graphs = self._plan.blocks, self._graphs
        if graphs is not None:
            state = graphs.begin_step(state, plans)
        for index, block in enumerate(self._blocks()):
            state.audio_text = self._audio_text_of(index, block, state.modulation)
            run = block_step if graphs is None else partial(graphs.run, index)
            state = run(block, state, plans[index])
        if graphs is not None:
            graphs.end_step()
        return state

    def _start(self, latent: Tensor, sigma: Tensor) -> BlockState:
        return BlockState(
            video=self._transformer.proj_in(latent),
            audio=self._transformer.audio_proj_in(self._inputs.audio_tokens),
            texts=self._texts,
            audio_text=None,
            modulation=_modulation(self._transformer, self._inputs, sigma, latent.dtype),
            ropes=self._ropes,
        )

    def _audio_text_of(self, index: int, block: Any, modulation: Modulation) -> KeyValue | None:
        if self._plan.blocks[index].audio is None:
            return None
        if index not in self._audio_text:
            made = audio_text_of(block, self._inputs.audio_text, modulation)
            self._audio_text[index] = made if self._graphs is None else self._graphs.keep(index, made)
        return self._audio_text[index]


def _make_ropes(transformer: Any, inputs: StageInputs) -> Ropes:
    grid, device = inputs.grid, inputs.audio_tokens.device
    video = transformer.rope.prepare_video_coords(
        1, grid.frames, grid.height, grid.width, device, fps=inputs.frame_rate
    )
    video = torch.cat([video, *(_shown_at(frame, video, inputs) for frame in inputs.appended)], dim=2)
    audio = transformer.audio_rope.prepare_audio_coords(1, inputs.audio_tokens.shape[1], device)
    return Ropes(
        video=transformer.rope(video),
        audio=transformer.audio_rope(audio),
        video_cross=transformer.cross_attn_rope(video[:, 0:1]),
        audio_cross=transformer.cross_attn_audio_rope(audio[:, 0:1]),
    )


def _shown_at(frame: int, video: Tensor, inputs: StageInputs) -> Tensor:
    """Coordinates [1, 3, tokens, 2] of a picture shown at `frame`: an ordinary latent frame's rows and columns, and the
    time of this frame alone (reference: `VideoConditionByKeyframeIndex`)."""
    shown = video[:, :, : inputs.grid.frame_tokens].clone()
    shown[:, 0] = torch.tensor([frame, frame + 1], device=video.device) / inputs.frame_rate
    return shown


def _modulation(transformer: Any, inputs: StageInputs, sigma: Tensor, dtype: torch.dtype) -> Modulation:
    config, device = transformer.config, inputs.mask.device
    now = torch.full((1,), float(sigma * config.timestep_scale_multiplier), device=device)
    clean = torch.zeros_like(now)
    frames = inputs.mask.view(-1) * now
    gate_factor = config.cross_attn_timestep_scale_multiplier / config.timestep_scale_multiplier

    def embed(layer: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        values, embedded = layer(timesteps, batch_size=1, hidden_dtype=dtype)
        return values[None], embedded[None]  # [1, timesteps, n * dim], [1, timesteps, dim]

    video, output = embed(transformer.time_embed, frames)
    return Modulation(
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
