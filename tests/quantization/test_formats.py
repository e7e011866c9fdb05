"""Each format as a layer: its error, its product, and the inputs that could break it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v.kernels import merge_low_rank
from ltx_a2v.kernels.activation import Activation
from ltx_a2v.quantization import MODES, TEXT_ENCODER_MODES, relative_error
from ltx_a2v.quantization.fp8_scaled_mm import quantized_of
from ltx_a2v.quantization.int4 import Int4Linear
from ltx_a2v.quantization.linear import Format, StoredLinear, reassign
from ltx_a2v.quantization.prequantized import PrequantizedLinear

FORMATS: dict[str, Format] = {**MODES, **TEXT_ENCODER_MODES, "prequantized": PrequantizedLinear}
QUANTIZED = {name: format for name, format in FORMATS.items() if name != "none"}
UPCAST = {name: format for name, format in FORMATS.items() if name != "fp8-scaled-mm"}
DTYPES = [torch.float32, torch.bfloat16]


def normal_weight(rows: int = 1024, columns: int = 1024, std: float = 0.02) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * std


def layer_of(weight: Tensor, format: Format, dtype: torch.dtype = torch.float32, bias: bool = True) -> StoredLinear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return reassign(layer, format)


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value.float() - expected.float()).norm() / expected.float().norm())


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [
        ("none", 0.0, 0.0),
        ("fp8-cast", 0.032, 0.034),
        ("fp8-scaled", 0.025, 0.027),
        ("fp8-scaled-mm", 0.025, 0.027),
        ("int8", 0.0074, 0.0087),  # 0.0087 for rows of 4096: a longer row has a larger maximum
        ("int8-quanto", 0.0074, 0.0092),
        ("fp8-quanto", 0.025, 0.027),
        ("int4-quanto", 0.08, 0.12),
    ],
)
def test_error_on_normal_weights(mode: str, low: float, high: float) -> None:
    assert low <= relative_error(normal_weight(), mode) <= high


def test_error_of_int4() -> None:
    assert 0.08 <= relative_error(normal_weight(), Int4Linear) <= 0.09


def test_error_of_bnb_nf4() -> None:
    pytest.importorskip("bitsandbytes")
    assert 0.09 <= relative_error(normal_weight(), FORMATS["bnb-nf4"]) <= 0.095


def test_bnb_nf4_is_right_where_rows_are_no_multiple_of_a_block() -> None:
    """There bitsandbytes' own CPU kernel takes other scales than it stored."""
    pytest.importorskip("bitsandbytes")
    assert relative_error(normal_weight(64, 96), FORMATS["bnb-nf4"]) < 0.1


def test_int8_is_closer_than_fp8_scaled_is_closer_than_fp8_cast() -> None:
    weight = normal_weight()
    int8, fp8_scaled, fp8_cast = (relative_error(weight, mode) for mode in ("int8", "fp8-scaled", "fp8-cast"))
    assert 3 * int8 < fp8_scaled < fp8_cast


def test_scaled_formats_do_not_care_for_the_size_of_the_weights_and_fp8_cast_does() -> None:
    weight = normal_weight(256, 256)
    for mode in ("fp8-scaled", "int8"):
        assert relative_error(weight / 1000, mode) == pytest.approx(relative_error(weight, mode), rel=0.01)
    assert relative_error(weight / 2, "fp8-cast") > 1.5 * relative_error(weight, "fp8-cast")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", UPCAST)
def test_forward_multiplies_by_the_dequantized_weight(name: str, bias: bool, dtype: torch.dtype) -> None:
    layer = layer_of(normal_weight(48, 96), FORMATS[name], dtype, bias)
    inputs = torch.randn(2, 5, 96, dtype=dtype)
    output = layer(inputs)
    expected = F.linear(inputs.float(), layer.dequantize(torch.float32), layer.bias.float() if bias else None)
    assert output.dtype == dtype
    assert output.shape == (2, 5, 48)
    assert relative(output, expected) < (1e-6 if dtype == torch.float32 else 6e-3)


@pytest.mark.parametrize("name", ["fp8-scaled", "int8"])
def test_bf16_products_are_as_exact_as_bf16_allows(name: str) -> None:
    """The weight is not rounded to bf16 again: half of the output's last place is all that is lost."""
    layer = layer_of(normal_weight(64, 512), FORMATS[name], torch.bfloat16, bias=False)
    inputs = torch.randn(64, 512, dtype=torch.bfloat16)
    exact = F.linear(inputs.double(), layer.weight.double() * layer.weight_scale.double()[:, None])
    rescaled_weight = layer.weight.bfloat16() * layer.weight_scale.bfloat16()[:, None]
    assert relative(layer(inputs), exact) < 2.5e-3
    assert relative(layer(inputs), exact) < relative(F.linear(inputs, rescaled_weight), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fp8_scaled_mm_rounds_the_activations_too(dtype: torch.dtype) -> None:
    layer = layer_of(normal_weight(48, 96), FORMATS["fp8-scaled-mm"], dtype)
    inputs = torch.randn(2, 5, 96, dtype=dtype)
    inputs[0, 0] *= 1000  # its own scale leaves the other tokens alone
    expected = F.linear(inputs.float(), layer.dequantize(torch.float32), layer.bias.float())
    output = layer(inputs)
    assert output.dtype == dtype
    assert 1e-3 < relative(output, expected) < 0.04
    assert relative(output[1], expected[1]) < 0.04


@pytest.mark.parametrize("per_token", [True, False], ids=["per token", "per tensor"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_fp8_scaled_mm_agrees_with_the_kernel(per_token: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._scaled_mm has a CPU implementation, which takes the scales as the GPUs' does."""
    layer = layer_of(normal_weight(48, 96), FORMATS["fp8-scaled-mm"], torch.bfloat16, bias)
    inputs = torch.randn(2, 5, 96, dtype=torch.bfloat16)
    monkeypatch.setattr("ltx_a2v.quantization.fp8_scaled_mm.takes_row_scales", lambda device: per_token)
    emulated = layer(inputs)
    monkeypatch.setattr("ltx_a2v.quantization.fp8_scaled_mm._kernel_takes", lambda weight: True)
    output = layer(inputs)
    assert output.dtype == torch.bfloat16
    assert relative(output, emulated) < 5e-3


def test_fp8_scaled_mm_gives_the_kernel_scales_that_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the second of several passes, each of an odd number of tokens, are not; cuBLASLt refuses them."""
    layer = layer_of(normal_weight(48, 96), FORMATS["fp8-scaled-mm"], torch.bfloat16)
    monkeypatch.setattr("ltx_a2v.quantization.fp8_scaled_mm.takes_row_scales", lambda device: True)
    monkeypatch.setattr("ltx_a2v.quantization.fp8_scaled_mm._kernel_takes", lambda weight: True)
    given, kernel = [], torch._scaled_mm

    def observed(*operands: torch.Tensor, scale_a: torch.Tensor, **options: object) -> torch.Tensor:
        given.append(scale_a.data_ptr() % 16)
        return kernel(*operands, scale_a=scale_a, **options)

    monkeypatch.setattr(torch, "_scaled_mm", observed)
    both = quantized_of(torch.randn(2, 5, 96, dtype=torch.bfloat16))
    second = both.rows(slice(1, 2))
    assert second.scale.data_ptr() % 16
    layer(Activation(None, second))
    assert given == [0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 33), (1, 5), (9, 8), (5, 160), (3, 40)], ids=str)
@pytest.mark.parametrize("name", QUANTIZED)
def test_odd_shapes(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = normal_weight(*shape)
    layer = layer_of(weight, FORMATS[name], dtype)
    inputs = torch.randn(3, shape[1], dtype=dtype)
    assert layer.dequantize(torch.float32).shape == shape
    assert relative(layer.dequantize(torch.float32), weight) < 0.15
    assert relative(layer(inputs), F.linear(inputs.float(), weight, layer.bias.float())) < 0.3


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("constant", [0.0, 0.01])
def test_constant_rows_stay_what_they_are(name: str, constant: float) -> None:
    weight = normal_weight(8, 64)
    weight[3] = constant
    layer = layer_of(weight, FORMATS[name])
    dequantized = layer.dequantize(torch.float32)
    assert dequantized.isfinite().all()
    torch.testing.assert_close(dequantized[3], weight[3], atol=2e-9, rtol=0.15)
    assert layer(torch.zeros(2, 64)).isfinite().all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_of_zeros_only(name: str) -> None:
    assert relative_error(torch.zeros(16, 64), FORMATS[name]) == 0


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantizing_twice_gives_the_same_bits(name: str) -> None:
    weight = normal_weight(32, 256).bfloat16()
    first, second = (FORMATS[name].quantize(weight) for _ in range(2))
    assert all(same_bits(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name != "prequantized"])
def test_large_weights_are_quantized_in_pieces_to_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal_weight(33, 128)
    whole = FORMATS[name].quantize(weight)
    monkeypatch.setattr("ltx_a2v.quantization.linear.CHUNK_ELEMENTS", 4 * 128)  # the last piece is a single row
    pieces = FORMATS[name].quantize(weight)
    assert all(same_bits(pieces[key], value) for key, value in whole.items())


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_stored_are_plain_parameters(name: str) -> None:
    layer = layer_of(normal_weight(32, 64), FORMATS[name])
    plain = {torch.uint8, torch.int8, torch.float8_e4m3fn, torch.bfloat16, torch.float32}
    for parameter in layer.parameters():
        assert type(parameter.data) is torch.Tensor
        assert type(parameter) is nn.Parameter
        assert parameter.dtype in plain
        assert not parameter.requires_grad
    assert not list(layer.buffers())


@pytest.mark.parametrize("name", QUANTIZED)
def test_tensors_can_be_bound_again(name: str) -> None:
    """As streaming does: a layer on `meta` takes the tensors of another and computes the same bits."""
    source = layer_of(normal_weight(32, 64), FORMATS[name], torch.bfloat16)
    target = reassign(nn.Linear(64, 32, device="meta", dtype=torch.bfloat16), FORMATS[name])
    target.load_state_dict(source.state_dict(), assign=True)
    inputs = torch.randn(4, 64, dtype=torch.bfloat16)
    assert torch.equal(source(inputs), target(inputs))


def test_int4_keeps_weights_that_were_trained_for_it() -> None:
    """Values q * d with q in -8..7 and -8 in each group, in bf16, as QAT weights are: nothing is lost."""
    quants = torch.randint(-8, 8, (16, 4, 32), generator=torch.Generator().manual_seed(0))
    quants[..., 5] = -8
    scales = (torch.rand(16, 4, 1, generator=torch.Generator().manual_seed(1)) - 0.5).mul(0.01).bfloat16()
    weight = (quants * scales).flatten(1)
    layer = layer_of(weight, Int4Linear, torch.bfloat16)
    assert torch.equal(layer.dequantize(torch.bfloat16), weight)


def test_int4_packs_two_values_a_byte() -> None:
    weight = torch.arange(-8, 8).repeat(2).float()[None]  # -8..7 twice
    stored = Int4Linear.quantize(weight)
    assert stored["weight"].tolist() == [[value | value << 4 for value in range(16)]]
    assert stored["weight_scale"].tolist() == [[1.0]]


def test_fp8_cast_is_a_plain_cast_of_weight_and_bias() -> None:
    linear = nn.Linear(64, 32)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    layer = reassign(linear, FORMATS["fp8-cast"])
    assert layer.bias.dtype == torch.float8_e4m3fn
    inputs = torch.randn(3, 64)
    rounded = F.linear(inputs, weight.to(torch.float8_e4m3fn).float(), bias.to(torch.float8_e4m3fn).float())
    assert torch.equal(layer(inputs), rounded)


@pytest.mark.parametrize("mode", ["int8", "fp8-scaled"])
def test_a_large_weight_is_upcast_in_pieces(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = reassign(torch.nn.Linear(48, 40), MODES[mode])
    tokens = torch.randn(2, 5, 48)
    with torch.inference_mode():
        whole = layer(tokens)
        monkeypatch.setattr("ltx_a2v.quantization.linear.UPCAST_ELEMENTS", 48 * 7)
        torch.testing.assert_close(layer(tokens), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", [mode for mode, kind in FORMATS.items() if kind.upcasts])
def test_a_lora_can_be_merged_into_every_format_that_is_upcast(mode: str) -> None:
    """Also where 4 bits are packed: what is stored there is no matrix that factors could be added to."""
    layer = reassign(nn.Linear(64, 32), FORMATS[mode]).requires_grad_(False)
    up, down = torch.randn(32, 4), torch.randn(4, 64)
    merged = merge_low_rank(*layer.to_merge(torch.float32), up, down, torch.float32)
    assert torch.allclose(merged, layer.dequantize(torch.float32) + up @ down, atol=1e-5)
