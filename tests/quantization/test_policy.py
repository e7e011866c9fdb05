"""The policy: which layers, both sides the same, and the sentences of its errors."""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ltx_a2v.errors import InvalidMode, InvalidModel, MissingExtra
from ltx_a2v.quantization import (
    CONNECTORS,
    MODES,
    TEXT_ENCODER,
    TRANSFORMER,
    QuantizationPolicy,
    StoredLinear,
    mode_table,
    parse_blocks,
)

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def layout(tensors: dict[str, Tensor]) -> Layout:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def random_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: (torch.randn(t.shape) * 0.02).to(t.dtype) for name, t in module.state_dict().items()}


def converted(policy: QuantizationPolicy, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: stored for key, tensor in state.items() for name, stored in policy.convert(key, tensor)}


def quantized_layers(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, StoredLinear)]


@pytest.mark.parametrize("mode", MODES)
def test_both_sides_agree_on_the_transformer(mode: str, transformer: nn.Module) -> None:
    policy = QuantizationPolicy.from_mode(mode, keep_bf16_blocks=frozenset({1}))
    tensors = converted(policy, random_state(transformer))
    policy.apply(transformer)
    assert layout(transformer.state_dict()) == layout(tensors)
    transformer.load_state_dict(tensors, assign=True)  # strict
    assert not any(tensor.is_meta for tensor in transformer.state_dict().values())


@pytest.mark.parametrize("mode", MODES)
def test_both_sides_agree_on_the_connectors(mode: str, connectors: nn.Module) -> None:
    policy = QuantizationPolicy.from_mode(mode, covered=CONNECTORS)
    tensors = converted(policy, random_state(connectors))
    policy.apply(connectors)
    assert layout(connectors.state_dict()) == layout(tensors)


def test_the_layers_of_the_reference_are_covered_and_no_others(transformer: nn.Module) -> None:
    QuantizationPolicy.from_mode("fp8-cast").apply(transformer)
    layers = quantized_layers(transformer)
    # per block: six attentions of four linears, two feed-forwards of two
    assert len(layers) == 3 * (6 * 4 + 2 * 2)
    assert "transformer_blocks.2.audio_ff.net.0.proj" in layers
    assert "transformer_blocks.0.audio_to_video_attn.to_out.0" in layers
    assert not [name for name in layers if "gate" in name or "proj_in" in name or "embed" in name]


def test_the_connectors_are_covered_with_their_projections(connectors: nn.Module) -> None:
    QuantizationPolicy.from_mode("int8", covered=CONNECTORS).apply(connectors)
    layers = quantized_layers(connectors)
    assert len(layers) == 2 + 2 * (4 + 2)
    assert {"video_text_proj_in", "audio_text_proj_in", "video_connector.transformer_blocks.0.ff.net.2"} <= set(layers)
    assert not [name for name in layers if "gate" in name]


def test_blocks_can_be_kept(transformer: nn.Module) -> None:
    QuantizationPolicy.from_mode("int8", parse_blocks("0,2")).apply(transformer)
    assert {name.split(".")[1] for name in quantized_layers(transformer)} == {"1"}


def test_a_block_that_does_not_exist_cannot_be_kept(transformer: nn.Module) -> None:
    with pytest.raises(InvalidMode, match=r"Block 7 cannot be kept in bf16: the transformer has blocks 0 to 2\."):
        QuantizationPolicy.from_mode("int8", parse_blocks("1,7-9")).apply(transformer)


def test_kept_blocks_are_the_transformers(connectors: nn.Module) -> None:
    QuantizationPolicy.from_mode("int8", frozenset({0}), covered=CONNECTORS).apply(connectors)
    assert "video_connector.transformer_blocks.0.attn1.to_q" in quantized_layers(connectors)


def test_the_text_encoders_linears() -> None:
    encoder = nn.ModuleDict(
        {"layers": nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(64, 32), "norm": nn.LayerNorm(64)})])}
    )
    QuantizationPolicy.for_text_encoder("int4").apply(encoder)
    assert quantized_layers(encoder) == ["layers.0.q_proj"]
    assert TEXT_ENCODER.covers("model.layers.3.mlp.down_proj")
    assert not TEXT_ENCODER.covers("embed_tokens")


@pytest.mark.parametrize("mode", MODES)
def test_a_module_with_values_is_quantized_to_the_bits_of_convert(mode: str) -> None:
    policy = QuantizationPolicy.from_mode(mode)
    block = nn.ModuleDict({"to_q": nn.Linear(64, 32, dtype=torch.bfloat16)})
    model = nn.ModuleDict({"transformer_blocks": nn.ModuleList([block])})
    tensors = converted(policy, dict(model.state_dict()))
    policy.apply(model)
    assert policy.mode == mode
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), tensors[name].view(torch.uint8))


def test_policies_are_values() -> None:
    int8 = QuantizationPolicy.from_mode("int8")
    assert int8 == QuantizationPolicy.from_mode("int8")
    assert int8 != QuantizationPolicy.from_mode("int8", frozenset({1}))
    assert int8 != QuantizationPolicy.from_mode("int8", covered=CONNECTORS)
    assert int8 != int8.of_stored_file()
    assert len({int8, QuantizationPolicy.from_mode("int8"), QuantizationPolicy.from_mode("none")}) == 2
    policy = QuantizationPolicy.from_mode("fp8-scaled", frozenset({1}))
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_tensors_of_a_stored_file_stay_as_they_are() -> None:
    stored = torch.zeros(4, 4, dtype=torch.int8)
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert [*QuantizationPolicy.from_mode("int8").of_stored_file().convert(name, stored)] == [(name, stored)]


def test_every_mode_describes_itself() -> None:
    assert [row[0] for row in mode_table()] == list(MODES)
    assert all(text and len(text) < 120 for row in mode_table() for text in row)


def test_unknown_mode() -> None:
    with pytest.raises(InvalidMode, match=r"no quantization mode 'int7'.*none, fp8-cast.*int4-quanto"):
        QuantizationPolicy.from_mode("int7")


@pytest.mark.parametrize("missing", ["optimum", "optimum.quanto"])
def test_missing_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> Any:
        if missing == "optimum":
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingExtra, match=r"mode int8-quanto needs .*EXTRAS=quanto` in a checkout"):
        QuantizationPolicy.from_mode("int8-quanto")
    QuantizationPolicy.from_mode("int8")


def test_missing_extra_of_the_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"mode bnb-nf4 needs .*EXTRAS=bnb` in a checkout"):
        QuantizationPolicy.for_text_encoder("bnb-nf4")
    QuantizationPolicy.for_text_encoder("int4")


def test_unknown_mode_of_the_text_encoder() -> None:
    with pytest.raises(InvalidMode, match=r"no text encoder quantization 'int8'.*none, int4, bnb-nf4"):
        QuantizationPolicy.for_text_encoder("int8")


def test_a_file_that_is_quantized_already_is_not_quantized_again() -> None:
    weight = torch.zeros(4, 4, dtype=torch.float8_e4m3fn)
    with pytest.raises(InvalidModel, match=r"to_q\.weight is already quantized \(stored as torch\.float8_e4m3fn\)"):
        list(QuantizationPolicy.from_mode("int8").convert("transformer_blocks.0.attn1.to_q.weight", weight))


def test_uncovered_tensors_pass_through() -> None:
    tensor = torch.zeros(4)
    for key in (
        "proj_in.weight",
        "transformer_blocks.0.scale_shift_table",
        "transformer_blocks.0.attn1.to_gate_logits",
    ):
        assert [*QuantizationPolicy.from_mode("int8").convert(key, tensor)] == [(key, tensor)]
    assert not TRANSFORMER.covers("audio_text_proj_in")


@pytest.mark.parametrize(
    ("text", "blocks"), [("", set()), ("3", {3}), ("0,43-47", {0, 43, 44, 45, 46, 47}), (" 1 , 2 - 3", {1, 2, 3})]
)
def test_parse_blocks(text: str, blocks: set[int]) -> None:
    assert parse_blocks(text) == blocks


@pytest.mark.parametrize("text", ["x", "1,,2", "3-1", "-1", "1-", "0-99999999", "1.5", ","])
def test_parse_blocks_refuses_nonsense(text: str) -> None:
    with pytest.raises(InvalidMode, match="is not a list of blocks"):
        parse_blocks(text)


class TestCheckDevice:
    @pytest.fixture(autouse=True)
    def _gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capability = (8, 6)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: self.capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA RTX A5000")

    def test_a_gpu_without_fp8_units(self) -> None:
        with pytest.raises(InvalidMode, match=r"fp8-scaled-mm .*NVIDIA RTX A5000 has 8\.6: use fp8-scaled or int8"):
            QuantizationPolicy.from_mode("fp8-scaled-mm").check_device("cuda")

    @pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
    def test_a_gpu_with_them(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        QuantizationPolicy.from_mode("fp8-scaled-mm").check_device("cuda:0")

    def test_a_cpu(self) -> None:
        QuantizationPolicy.from_mode("fp8-scaled-mm").check_device("cpu")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="bitsandbytes has kernels for the GPU here")
    def test_bitsandbytes_without_kernels_for_the_device(self) -> None:
        pytest.importorskip("bitsandbytes")
        with pytest.raises(InvalidMode, match=r"bnb-nf4: .* no compiled kernels for cuda here; use int4"):
            QuantizationPolicy.for_text_encoder("bnb-nf4").check_device("cuda")
        QuantizationPolicy.for_text_encoder("bnb-nf4").check_device("cpu")

    @pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "fp8-scaled-mm"])
    def test_other_modes_run_anywhere(self, mode: str) -> None:
        QuantizationPolicy.from_mode(mode).check_device("cuda")
