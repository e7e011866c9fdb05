"""Run by `test_pointwise.py` in a process of its own, where Triton interprets kernels on the CPU.

The interpreter cuts bfloat16 and e4m3 off where a GPU rounds: errors are up to twice a GPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import PerChannelRMSNorm
from diffusers.models.normalization import RMSNorm
from torch import Tensor

from ltx_a2v import A2VPipeline
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.kernels import Activation, Form, dispatch, pointwise, triton_kernels
from ltx_a2v.miniature import ensure_miniature
from ltx_a2v.settings.loading import LoadOptions

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
    modulated, normed = triton_kernels.modulate(x, scale, shift, None), triton_kernels.modulate(x, scale, shift, 1e-6)
    assert error(modulated.tensor, pointwise.modulate(*wide).tensor) < 0.006
    assert error(normed.tensor, pointwise.norm_and_modulate(norm, *wide).tensor) < 0.006
    change = x.flip(0)
    added = triton_kernels.add_gated(x, change, gate)
    assert error(added, pointwise.add_gated(x.float(), change.float(), gate.float())) < 0.006
    some = x[1:]
    assert triton_kernels.add_gated(some, change[1:], gate, out=some) is some
    assert torch.equal(x[1:], added[1:])
    assert torch.equal(x[:1], drawn(ROWS, TOKENS, DIM)[:1])


@torch.no_grad()
def test_rotation() -> None:
    x, norm, angle = drawn(ROWS, TOKENS, DIM), torch.nn.RMSNorm(DIM, eps=1e-6), torch.randn(1, HEADS, TOKENS, SIZE // 2)
    norm.weight.copy_(drawn(DIM))
    rope = angle.cos(), angle.sin()
    transposed = tuple(table.transpose(1, 2).contiguous().transpose(1, 2) for table in rope)
    for tables in (rope, transposed):
        rotated = triton_kernels.norm_and_rotate(x, norm.weight.bfloat16(), norm.eps, *tables)
        assert error(rotated, pointwise.norm_and_rotate(norm, x.float(), rope)) < 0.006


def test_heads_in_either_memory_layout_and_in_parts() -> None:
    logits = drawn(ROWS, TOKENS, HEADS)
    for heads in (drawn(ROWS, TOKENS, HEADS, SIZE), drawn(ROWS, HEADS, TOKENS, SIZE).transpose(1, 2)):
        gated = triton_kernels.gate_heads([heads], logits).tensor
        assert error(gated, pointwise.gate_heads([heads.float()], logits.float()).tensor) < 0.006
        assert torch.equal(triton_kernels.gate_heads([heads[:2], heads[2:]], logits).tensor, gated)


def test_gelu() -> None:
    x = drawn(ROWS, TOKENS, 50) * 2
    expected = torch.nn.functional.gelu(x.float(), approximate="tanh")
    made = triton_kernels.gelu_(x, Form.VALUES)
    assert made.tensor is x
    assert error(x, expected) < 0.006


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


@pytest.mark.parametrize("columns", [50, triton_kernels.COLUMNS + 30])
def test_rows_of_e4m3(columns: int) -> None:
    tokens = drawn(7, columns)
    tokens[3] = 0
    made = triton_kernels.quantize_rows(tokens).quantized
    expected = pointwise.quantize_rows(tokens.float())
    assert torch.equal(made.scale, expected.scale)
    assert error(made.values, expected.values.float()) < 0.08
    for by in (made.scale[:, 0].contiguous(), made.scale[0, 0]):
        assert error(triton_kernels.upcast_rows(made.values, by), made.values.float() * by.view(-1, 1)) < 0.006


def test_upcast_int8() -> None:
    weight, by = torch.randint(-127, 128, (7, 50), dtype=torch.int8), torch.rand(7)
    assert error(triton_kernels.upcast_rows(weight, by), weight.float() * by.view(-1, 1)) < 0.006


@pytest.mark.parametrize("rank", [8, triton_kernels.MERGE_RANKS + 6])
@pytest.mark.parametrize("stored", ["bfloat16", "int8 by row", "int8 by one scale"])
def test_a_lora_added_to_a_weight(stored: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "FACTORS", triton.language.float32)  # the interpreter cannot multiply bfloat16
    rows, columns = triton_kernels.MERGE_ROWS + 5, triton_kernels.MERGE_COLUMNS + 3
    up, down = drawn(rows, rank), drawn(rank, columns)
    weight = drawn(rows, columns)
    scale = None
    if stored != "bfloat16":
        weight = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
        scale = torch.rand(rows) if stored == "int8 by row" else torch.tensor(0.5)
    merged = triton_kernels.merge_low_rank(weight, scale, up, down)
    expected = pointwise.merge_low_rank(weight, scale, up.float(), down.float(), torch.float32)
    assert error(merged, expected) < 0.004


def producers() -> dict[str, Callable[[Form], Activation]]:
    x, logits = drawn(ROWS, TOKENS, DIM), drawn(ROWS, TOKENS, HEADS)
    x[1, 2] = 0
    scale, shift = (part.unsqueeze(2) for part in drawn(1, FRAMES, 2, DIM).unbind(2))
    heads = drawn(ROWS, TOKENS, HEADS, SIZE)
    return {
        "modulate": lambda form: triton_kernels.modulate(x, scale, shift, None, form),
        "norm_and_modulate": lambda form: triton_kernels.modulate(x, scale, shift, 1e-6, form),
        "gate_heads": lambda form: triton_kernels.gate_heads([heads[:1], heads[1:]], logits, form),
        "gelu": lambda form: triton_kernels.gelu_(x.clone(), form),
    }


@pytest.mark.parametrize("name", ["modulate", "norm_and_modulate", "gate_heads", "gelu"])
def test_activations_quantized_where_they_are_made_have_the_bytes_of_quantize_rows(name: str) -> None:
    make = producers()[name]
    values = make(Form.VALUES).tensor
    expected = triton_kernels.quantize_rows(values).quantized
    alone, both = make(Form.E4M3), make(Form.VALUES | Form.E4M3)
    assert alone.values is None
    assert torch.equal(both.tensor, values)
    for made in (alone.quantized, both.quantized):
        assert torch.equal(made.values.view(torch.uint8), expected.values.view(torch.uint8))
        assert torch.equal(made.scale, expected.scale)


@pytest.mark.parametrize(("mode", "bound"), [("none", 0.03), ("int8", 0.03), ("fp8-scaled-mm", 0.12)])
@torch.inference_mode()
def test_a_guided_forward_is_the_plain_one_in_every_pass(
    mode: str, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, options = ensure_miniature(tmp_path), LoadOptions(mode)
    pipeline = A2VPipeline.open(paths, device="cpu", dtype=torch.bfloat16, options=options)
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
        assert error(fused[kind], plain[kind].float()) < min(bound, apart / 2), kind
