"""optimum-quanto: why a model died with it elsewhere, and that ours does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from ltx_a2v.quantization import QuantizationPolicy
from ltx_a2v.quantization.quanto import Int4QuantoLinear, group_size, quanto

pytest.importorskip("optimum")

QUANTO_MODES = ["int8-quanto", "fp8-quanto", "int4-quanto"]


class Preprocessor:
    """Keeps a linear of the model: a second reference, outside the tree of modules."""

    def __init__(self, projection: nn.Linear) -> None:
        self.projection = projection

    def __call__(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.projection(tokens)
        return projected


class ModelWithSecondReference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(64, 64)})])
        self.preprocess = Preprocessor(self.transformer_blocks[0]["to_q"])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.preprocess(tokens)


def test_quantos_own_way_leaves_a_second_reference_without_a_weight() -> None:
    model = ModelWithSecondReference()
    quanto().quantize(model, weights=quanto().qint8)
    quanto().freeze(model)
    assert model.preprocess.projection is not model.transformer_blocks[0]["to_q"]
    with pytest.raises(TypeError, match=r"linear\(\): argument 'weight' .* must be Tensor, not NoneType"):
        model(torch.randn(2, 64))


@pytest.mark.parametrize("mode", QUANTO_MODES)
def test_ours_leaves_it_whole(mode: str) -> None:
    model = ModelWithSecondReference()
    inputs = torch.randn(2, 64)
    expected = model(inputs)
    QuantizationPolicy.from_mode(mode).apply(model)
    assert model.preprocess.projection is model.transformer_blocks[0]["to_q"]
    assert float((model(inputs) - expected).norm() / expected.norm()) < 0.15


@pytest.mark.parametrize(
    ("mode", "qtype"), [("int8-quanto", "qint8"), ("fp8-quanto", "qfloat8"), ("int4-quanto", "qint4")]
)
def test_weights_are_those_of_quanto(mode: str, qtype: str) -> None:
    """Within a rounding of the scale: quanto's are float32 for float32 weights, ours bf16."""
    ours = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(256, 64)})])})
    theirs = nn.Sequential(nn.Linear(256, 64))
    theirs[0].weight.copy_(ours.get_parameter("transformer_blocks.0.to_q.weight"))
    original = theirs[0].weight.clone()
    quanto().quantize(theirs, weights=getattr(quanto(), qtype))
    weight = theirs[0].qweight
    # as quanto would unpack it with its compiled extension
    data = torch.cat([weight._data._data & 15, weight._data._data >> 4]) if mode == "int4-quanto" else weight._data
    dequantized = weight._scale * data.float() - (weight._shift if mode == "int4-quanto" else 0)
    QuantizationPolicy.from_mode(mode).apply(ours)
    mine = ours.get_submodule("transformer_blocks.0.to_q").dequantize(torch.float32)
    our_error, their_error = (float((w.reshape(64, 256) - original).norm()) for w in (mine, dequantized))
    assert our_error == pytest.approx(their_error, rel=0.05)


def test_groups_of_int4() -> None:
    assert [group_size(size) for size in (4096, 2048, 192, 160, 96, 64, 40)] == [128, 128, 96, 32, 96, 64, 40]
    stored = Int4QuantoLinear.quantize(torch.randn(32, 256))
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "weight": (32, 128),
        "weight_scale": (64,),
        "weight_shift": (64,),
    }


def test_nothing_is_compiled_and_nothing_is_said() -> None:
    """In a process without a compiler and with warnings as errors, each mode quantizes, multiplies and is silent."""
    program = """
import torch
from torch import nn
from ltx_a2v.quantization import QuantizationPolicy
for mode in ("int8-quanto", "fp8-quanto", "int4-quanto"):
    for dtype in (torch.float32, torch.bfloat16):
        blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(256, 64, dtype=dtype)})])
        QuantizationPolicy.from_mode(mode).apply(nn.ModuleDict({"transformer_blocks": blocks}))
        assert blocks[0]["to_q"](torch.randn(2, 256, dtype=dtype)).isfinite().all()
"""
    environment = {**os.environ, "PATH": "/nonexistent", "CXX": "/nonexistent", "CC": "/nonexistent"}
    environment["CUDA_HOME"] = "/nonexistent"  # of this, on a machine without a GPU, torch would speak
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
