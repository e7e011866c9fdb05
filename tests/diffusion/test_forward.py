"""The shared forward computes what separate forwards compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ltx_a2v import A2VPipeline
from ltx_a2v.diffusion.block_plan import plan_stage
from ltx_a2v.diffusion.block_step import audio_text_of, block_step
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid

GRID = LatentGrid(3, 2, 4)
ALL = frozenset(Pass)


@pytest.fixture(scope="module")
def transformer(pipeline: A2VPipeline) -> Iterator[nn.Module]:
    with pipeline.model.within({}).use("transformer") as module:
        yield module


@pytest.fixture(scope="module")
def inputs() -> StageInputs:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(1, GRID.frames, 1, 1)
    mask[:, 0] = 0.25
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return StageInputs(GRID, 24.0, mask, draw(1, 12, 128), draw(1, 30, 128), draw(1, 30, 128), draw(1, 30, 64))


@torch.inference_mode()
def velocities(
    transformer: nn.Module, inputs: StageInputs, passes: frozenset[Pass], blocks: set[int], exact: bool
) -> dict[Pass, Tensor]:
    latent = torch.randn(1, GRID.tokens, 128, generator=torch.Generator().manual_seed(1))
    forward = StageForward(transformer, inputs, passes, frozenset(blocks), exact_passes=exact)
    return forward.velocities(latent, torch.tensor(0.7))


@pytest.mark.parametrize("blocks", [{0}, {1}, {3}, {0, 2}, {1, 2, 3}], ids=str)
def test_exact_passes_equal_each_pass_alone_to_the_bit(
    transformer: nn.Module, inputs: StageInputs, blocks: set[int]
) -> None:
    together = velocities(transformer, inputs, ALL, blocks, exact=True)
    assert together.keys() == ALL
    for kind in Pass:
        alone = velocities(transformer, inputs, frozenset({Pass.POSITIVE, kind}), blocks, exact=True)
        assert torch.equal(together[kind], alone[kind])


@pytest.mark.parametrize("blocks", [{0}, {2}], ids=str)
def test_passes_without_the_positive_one_equal_all_together_to_the_bit(
    transformer: nn.Module, inputs: StageInputs, blocks: set[int]
) -> None:
    """So that several GPUs can each compute some of the passes."""
    together = velocities(transformer, inputs, ALL, blocks, exact=True)
    others = sorted(ALL - {Pass.POSITIVE})
    for passes in (frozenset(some) for count in (1, 2, 3) for some in combinations(others, count)):
        apart = velocities(transformer, inputs, passes, blocks, exact=True)
        assert apart.keys() == passes
        assert all(torch.equal(apart[kind], together[kind]) for kind in passes)


@torch.inference_mode()
def test_a_block_is_a_function_of_its_state_and_plan(transformer: nn.Module, inputs: StageInputs) -> None:
    """Called twice with the same it gives the same, and changes none of the tensors it was given."""
    plan = plan_stage(ALL, frozenset({0}), 4).blocks[0]
    forward = StageForward(transformer, inputs, ALL, frozenset({0}))
    block = transformer.transformer_blocks[0]
    latent = torch.randn(1, GRID.tokens, 128, generator=torch.Generator().manual_seed(1))
    state = forward._start(latent, torch.tensor(0.7))
    state.audio_text = audio_text_of(block, inputs.audio_text, state.modulation)
    video, audio = state.video.clone(), state.audio.clone()
    once, again = (block_step(block, replace(state), plan) for _ in range(2))
    assert torch.equal(once.video, again.video)
    assert torch.equal(once.audio, again.audio)
    assert torch.equal(state.video, video)
    assert torch.equal(state.audio, audio)


@pytest.mark.parametrize("blocks", [{0}, {2}, {1, 3}], ids=str)
def test_batched_passes_equal_exact_ones_up_to_rounding(
    transformer: nn.Module, inputs: StageInputs, blocks: set[int]
) -> None:
    exact = velocities(transformer, inputs, ALL, blocks, exact=True)
    batched = velocities(transformer, inputs, ALL, blocks, exact=False)
    for kind in Pass:
        torch.testing.assert_close(batched[kind], exact[kind], rtol=1e-4, atol=1e-5)


def test_passes_differ(transformer: nn.Module, inputs: StageInputs) -> None:
    result = velocities(transformer, inputs, ALL, {1}, exact=False)
    for kind in set(Pass) - {Pass.POSITIVE}:
        difference = (result[kind] - result[Pass.POSITIVE]).norm() / result[Pass.POSITIVE].norm()
        assert difference > 1e-3, kind


@pytest.mark.parametrize("kind", [Pass.POSITIVE, Pass.NEGATIVE, Pass.PERTURBED, Pass.ISOLATED])
@torch.inference_mode()
def test_each_pass_equals_diffusers_own_blocks(transformer: nn.Module, inputs: StageInputs, kind: Pass) -> None:
    """An oracle that shares nothing: diffusers' block forward, one full pass, per-token timesteps."""
    result = velocities(transformer, inputs, frozenset({Pass.POSITIVE, kind}), {1, 2}, exact=False)
    torch.testing.assert_close(result[kind], diffusers_pass(transformer, inputs, kind, {1, 2}), rtol=2e-4, atol=2e-5)


def diffusers_pass(transformer: nn.Module, inputs: StageInputs, kind: Pass, perturbed: set[int]) -> Tensor:
    t = transformer
    latent = torch.randn(1, GRID.tokens, 128, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([700.0])
    clean = torch.zeros(1)
    tokens = inputs.mask.expand(1, GRID.frames, GRID.frame_tokens, 1).reshape(-1) * sigma
    audio_tokens = torch.zeros(inputs.audio_tokens.shape[1])

    def embed(layer: nn.Module, timesteps: Tensor) -> Tensor:
        return layer(timesteps, batch_size=1, hidden_dtype=torch.float32)[0].view(1, len(timesteps), -1)

    video_coords = t.rope.prepare_video_coords(1, GRID.frames, GRID.height, GRID.width, "cpu", fps=24.0)
    audio_coords = t.audio_rope.prepare_audio_coords(1, inputs.audio_tokens.shape[1], "cpu")
    video, audio = t.proj_in(latent), t.audio_proj_in(inputs.audio_tokens)
    for index, block in enumerate(t.transformer_blocks):
        # diffusers perturbs both self-attentions with one switch; the reference the video's only
        audio_attention = block.audio_attn1.forward
        block.audio_attn1.forward = lambda *a, _f=audio_attention, **k: _f(*a, **k | {"all_perturbed": False})
        video, audio = block(
            hidden_states=video,
            audio_hidden_states=audio,
            encoder_hidden_states=inputs.negative_text if kind is Pass.NEGATIVE else inputs.positive_text,
            audio_encoder_hidden_states=inputs.audio_text,
            temb=embed(t.time_embed, tokens),
            temb_audio=embed(t.audio_time_embed, audio_tokens),
            temb_ca_scale_shift=embed(t.av_cross_attn_video_scale_shift, tokens),
            temb_ca_audio_scale_shift=embed(t.av_cross_attn_audio_scale_shift, audio_tokens),
            temb_ca_gate=embed(t.av_cross_attn_video_a2v_gate, clean),
            temb_ca_audio_gate=embed(t.av_cross_attn_audio_v2a_gate, sigma),
            temb_prompt=embed(t.prompt_adaln, sigma),
            temb_prompt_audio=embed(t.audio_prompt_adaln, clean),
            video_rotary_emb=t.rope(video_coords),
            audio_rotary_emb=t.audio_rope(audio_coords),
            ca_video_rotary_emb=t.cross_attn_rope(video_coords[:, :1]),
            ca_audio_rotary_emb=t.cross_attn_audio_rope(audio_coords[:, :1]),
            use_a2v_cross_attention=kind is not Pass.ISOLATED,
            use_v2a_cross_attention=kind is not Pass.ISOLATED,
            all_perturbed=kind is Pass.PERTURBED and index in perturbed,
        )
        del block.audio_attn1.forward
    embedded = t.time_embed(tokens, batch_size=1, hidden_dtype=torch.float32)[1].view(1, len(tokens), -1)
    shift, scale = (t.scale_shift_table[None, None] + embedded[:, :, None]).unbind(2)
    return t.proj_out(t.norm_out(video) * (1 + scale) + shift)
