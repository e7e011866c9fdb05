"""Run by `test_pointwise.py` in a process of its own, where Triton interprets kernels on the CPU.

The interpreter cuts bfloat16 and e4m3 off where a GPU rounds: errors are up to twice a GPU's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import PerChannelRMSNorm
from diffusers.models.normalization import RMSNorm
from torch import Tensor

from ltx_a2v import A2VPipeline
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.kernels import dispatch, pointwise, triton_kernels
from ltx_a2v.miniature import ensure_miniature

GRID = LatentGrid(2, 1, 2)
ROWS, FRAMES, TOKENS, HEADS, SIZE = 3, 4, 12, 4, 12
DIM = HEADS * SIZE


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).bfloat16()


def error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b).norm() / b.norm())


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_modulations(frames: int) -> None:
    x = drawn(ROWS, TOKENS, DIM)
    scale, shift, gate = (part.unsqueeze(2) for part in drawn(1, frames, 3, DIM).unbind(2))
    wide = x.float(), scale.float(), shift.float()
    norm = RMSNorm(DIM, 1e-6, False)
    assert error(triton_kernels.modulate(x, scale, shift, None), pointwise.modulate(*wide)) < 0.006
    assert error(triton_kernels.modulate(x, scale, shift, 1e-6), pointwise.norm_and_modulate(norm, *wide)) < 0.006
    added = triton_kernels.add_gated(x, x.flip(0), gate)
    assert error(added, pointwise.add_gated(x.float(), x.flip(0).float(), gate.float())) < 0.006


@torch.no_grad()
def test_rotation() -> None:
    x, norm, angle = drawn(ROWS, TOKENS, DIM), torch.nn.RMSNorm(DIM, eps=1e-6), torch.randn(1, HEADS, TOKENS, SIZE // 2)
    norm.weight.copy_(drawn(DIM))
    rope = angle.cos(), angle.sin()
    rotated = triton_kernels.norm_and_rotate(x, norm.weight.bfloat16(), norm.eps, *rope)
    assert error(rotated, pointwise.norm_and_rotate(norm, x.float(), rope)) < 0.006


def test_heads_in_either_memory_layout() -> None:
    logits = drawn(ROWS, TOKENS, HEADS)
    for heads in (drawn(ROWS, TOKENS, HEADS, SIZE), drawn(ROWS, HEADS, TOKENS, SIZE).transpose(1, 2)):
        gated = triton_kernels.gate_heads(heads, logits)
        assert error(gated, pointwise.gate_heads(heads.float(), logits.float())) < 0.006


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 0)])
@pytest.mark.parametrize(("channels", "side"), [(48, 3), (triton_kernels.PIXEL_VALUES // 32, 6)])
def test_norm_and_silu_of_videos(before: int, after: int, channels: int, side: int) -> None:
    norm = PerChannelRMSNorm()
    whole = drawn(1, channels, 4, side, side).to(memory_format=torch.channels_last_3d)
    for video in (whole, whole[:, :, 1:], whole.contiguous()):
        made = triton_kernels.norm_silu_and_pad(video, norm.eps, before, after)
        expected = pointwise.norm_silu_and_pad(norm, video.float(), before, after)
        assert made.shape == expected.shape
        assert made.is_contiguous(memory_format=torch.channels_last_3d)
        assert error(made, expected) < 0.006
        assert torch.equal(made[:, :, 0], made[:, :, before])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("columns", [50, triton_kernels.COLUMNS + 30])
def test_rows_of_8_bits(dtype: torch.dtype, columns: int) -> None:
    largest = 127 if dtype == torch.int8 else 448.0
    tokens = drawn(7, columns)
    tokens[3] = 0
    stored, scale = triton_kernels.quantize_rows(tokens, largest, dtype)
    expected, expected_scale = pointwise.quantize_rows(tokens.float(), largest, dtype)
    assert torch.equal(scale, expected_scale)
    assert error(stored, expected.float()) < (1e-6 if dtype == torch.int8 else 0.08)
    for by in (scale[:, 0].contiguous(), scale[0, 0]):
        assert error(triton_kernels.upcast_rows(stored, by), stored.float() * by.view(-1, 1)) < 0.006


@torch.inference_mode()
def test_a_guided_forward_is_the_plain_one_in_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = A2VPipeline.open(ensure_miniature(tmp_path), device="cpu", dtype=torch.bfloat16)
    texts = drawn(1, 6, 128), -drawn(1, 6, 128), drawn(1, 6, 64)
    inputs = StageInputs(GRID, 24.0, torch.ones(1, GRID.frames, 1, 1), drawn(1, 4, 128), *texts)
    with pipeline.model.within({}).use("transformer") as transformer:

        def velocities() -> dict[Pass, Tensor]:
            forward = StageForward(transformer, inputs, frozenset(Pass), frozenset({1}))
            return forward.velocities(drawn(1, GRID.tokens, 128), torch.tensor(0.7))

        plain = velocities()
        monkeypatch.setattr(dispatch, "fused", lambda device, dtype: dtype == torch.bfloat16)
        fused = velocities()
    apart = error(plain[Pass.NEGATIVE], plain[Pass.POSITIVE].float())
    for kind in Pass:
        assert error(fused[kind], plain[kind].float()) < min(0.03, apart / 2), kind
