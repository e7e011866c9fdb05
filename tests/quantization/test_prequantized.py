"""Checkpoints with e4m3 weights and scalar scales."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v.errors import InvalidMode, InvalidModel
from ltx_a2v.quantization import QuantizationPolicy

E4M3, F32, BF16 = torch.float8_e4m3fn, torch.float32, torch.bfloat16


def model(device: str = "meta") -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"to_q": nn.Linear(64, 32), "to_gate_logits": nn.Linear(64, 4)})

    return nn.ModuleDict({"transformer_blocks": nn.ModuleList([block(), block()])}).to(device, BF16)


def file_of(model: nn.Module, *, input_scale: bool = True) -> dict[str, Tensor]:
    """Block 1 is quantized, block 0 is not."""
    tensors = {name: torch.randn(t.shape).to(t.dtype) * 0.02 for name, t in model.state_dict().items()}
    layer = "transformer_blocks.1.to_q"
    weight = tensors[f"{layer}.weight"].float()
    scale = weight.abs().max() / 448
    tensors[f"{layer}.weight"] = (weight / scale).to(E4M3)
    tensors[f"{layer}.weight_scale"] = scale
    if input_scale:
        tensors[f"{layer}.input_scale"] = torch.tensor(3.5 / 448)
    return tensors


def header(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("fp8_mm", [False, True])
@pytest.mark.parametrize("input_scale", [False, True])
def test_layers_are_those_of_the_file(fp8_mm: bool, input_scale: bool) -> None:
    network = model()
    tensors = file_of(network, input_scale=input_scale)
    policy = QuantizationPolicy.prequantized(header(tensors), fp8_mm=fp8_mm)
    assert policy is not None
    policy.apply(network)
    stored = dict(pair for key, tensor in tensors.items() for pair in policy.convert(key, tensor))
    assert header(dict(network.state_dict())) == header(stored)
    network.load_state_dict(stored, assign=True)

    inputs = torch.randn(2, 7, 64, dtype=BF16)
    layer = network.get_submodule("transformer_blocks.1.to_q")
    weight = tensors["transformer_blocks.1.to_q.weight"].float() * tensors["transformer_blocks.1.to_q.weight_scale"]
    expected = F.linear(inputs.float(), weight, tensors["transformer_blocks.1.to_q.bias"].float())
    difference = float((layer(inputs).float() - expected).norm() / expected.norm())
    assert difference < (0.05 if fp8_mm else 0.005)
    assert type(network.get_submodule("transformer_blocks.0.to_q")) is nn.Linear


def test_activations_past_the_files_scale_are_clamped() -> None:
    network = model()
    tensors = file_of(network)
    policy = QuantizationPolicy.prequantized(header(tensors), fp8_mm=True)
    assert policy is not None
    policy.apply(network)
    network.load_state_dict(tensors, assign=True)
    layer = network.get_submodule("transformer_blocks.1.to_q")
    limit, beyond = torch.full((1, 64), 3.5, dtype=BF16), torch.full((1, 64), 1e4, dtype=BF16)
    assert torch.equal(layer(beyond), layer(limit))


def test_a_bf16_file_is_not_prequantized() -> None:
    tensors = {name: (BF16, tuple(t.shape)) for name, t in model().state_dict().items()}
    assert QuantizationPolicy.prequantized(tensors) is None


@pytest.mark.parametrize(
    "scales",
    [
        {},
        {"a.0.weight_scale": (F32, (4,)), "a.1.weight_scale": (F32, ())},
        {"a.0.weight_scale": (BF16, ()), "a.1.weight_scale": (F32, ())},
        {"a.0.weight_scale": (F32, ()), "a.0.input_scale": (F32, (1, 1)), "a.1.weight_scale": (F32, ())},
    ],
    ids=["missing", "per row", "bf16", "input scale"],
)
def test_unusable_scales(scales: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    weights = {"a.0.weight": (E4M3, (4, 4)), "a.1.weight": (E4M3, (4, 4)), "a.1.bias": (BF16, (4,))}
    count = 1 if scales else 2
    with pytest.raises(InvalidModel, match=rf"^{count} of the 2 fp8 layers .* the first is a\.0: each needs"):
        QuantizationPolicy.prequantized({**weights, **scales})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    tensors = header(file_of(model()))
    upcast, mm = (QuantizationPolicy.prequantized(tensors, fp8_mm=fp8_mm) for fp8_mm in (False, True))
    assert upcast is not None
    assert mm is not None
    upcast.check_device("cuda")
    with pytest.raises(InvalidMode, match=r"NVIDIA A100 has 8\.0"):
        mm.check_device("cuda")
