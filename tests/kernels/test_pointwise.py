"""The Triton kernels compute what their plain forms compute, and `meta` takes the memory of the planned device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ltx_a2v import kernels
from ltx_a2v.errors import OutOfMemory


def test_kernels_equal_their_plain_forms() -> None:
    pytest.importorskip("triton")
    interpreted = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", interpreted]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_plans_for_a_cpu_count_the_plain_forms() -> None:
    x = torch.empty(1, 4, 8, dtype=torch.bfloat16, device="meta")
    with kernels.planned_for(torch.device("cpu")):
        assert not kernels.fused_on(x)


def test_the_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_A2V_FUSED", "0")
    kernels.problem.cache_clear()
    assert kernels.problem(torch.device("cuda")) == "LTX_A2V_FUSED is 0"
    kernels.problem.cache_clear()


class _Gpu:
    """Stands in for the Triton module: adding raises what `error` is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.compiled = 0
        zeros = torch.zeros
        monkeypatch.delenv("LTX_A2V_FUSED", raising=False)
        monkeypatch.setattr("ltx_a2v.kernels.dispatch.triton_kernels", lambda: self)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch, "zeros", lambda *size, dtype, device: zeros(*size, dtype=dtype))

    def add_gated(self, *tensors: object) -> None:
        self.compiled += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Gpu]:
    kernels.problem.cache_clear()
    yield _Gpu(monkeypatch)
    kernels.problem.cache_clear()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("Triton Error [CUDA]: out of memory"), MemoryError()],
    ids=["torch", "triton", "host"],
)
def test_memory_that_is_short_for_a_moment_does_not_turn_them_off(gpu: _Gpu, error: Exception) -> None:
    gpu.error = error
    with pytest.raises(OutOfMemory, match="free some and try again"):
        kernels.problem(torch.device("cuda"))
    gpu.error = None
    assert kernels.problem(torch.device("cuda")) is None


def test_what_cannot_be_compiled_is_tried_once(gpu: _Gpu) -> None:
    gpu.error = RuntimeError("Failed to find C compiler.\nPlease specify one.")
    assert [kernels.problem(torch.device("cuda")) for _ in range(2)] == ["Failed to find C compiler."] * 2
    assert gpu.compiled == 1


class _Kernel:
    """In the place of a compiled one: which GPU was current when it was launched."""

    def __init__(self, current: list[int]) -> None:
        self.current = current
        self.launched_on: list[int] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **constants: self.launched_on.append(self.current[-1])


@pytest.mark.parametrize("index", [0, 1])
def test_kernels_run_on_the_tensors_gpu(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    triton_kernels = pytest.importorskip("ltx_a2v.kernels.triton_kernels")
    current = [0]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", device)
    helpers = {"_store"}
    jitted = {
        name for name, value in vars(triton_kernels).items() if isinstance(value, triton_kernels.triton.JITFunction)
    }
    names = sorted(jitted - helpers)
    launched = {name: _Kernel(current) for name in names}
    for name, kernel in launched.items():
        monkeypatch.setattr(triton_kernels, name, kernel)
    with FakeTensorMode(), torch.device(f"cuda:{index}"):
        x, frames = torch.empty(2, 4, 8, dtype=torch.bfloat16), torch.empty(1, 2, 1, 8, dtype=torch.bfloat16)
        rope = torch.empty(1, 2, 4, 2)
        triton_kernels.modulate(x, frames, frames, None)
        triton_kernels.add_gated(x, x, frames)
        triton_kernels.norm_and_rotate(x, torch.empty(8), 1e-6, rope, rope)
        triton_kernels.gate_heads([torch.empty(2, 4, 2, 4)], torch.empty(2, 4, 2))
        triton_kernels.gelu_(x, kernels.Form.E4M3)
        triton_kernels.upcast_rows(torch.empty(8, 8, dtype=torch.int8), torch.empty(8))
        triton_kernels.merge_low_rank(torch.empty(8, 8), None, torch.empty(8, 2), torch.empty(2, 8))
        triton_kernels.quantize_rows(x[0])
        triton_kernels.norm_silu_and_pad(torch.empty(1, 8, 3, 2, 2), 1e-8, 1, 1)
    assert {name: kernel.launched_on for name, kernel in launched.items()} == {name: [index] for name in names}
    assert current == [0]


def test_a_row_longer_than_a_program_holds_takes_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor with one scale, as Ada's fp8 units want it, is one row of millions."""
    monkeypatch.setattr("ltx_a2v.kernels.pointwise.fused_on", lambda x: True)
    monkeypatch.setattr("ltx_a2v.kernels.pointwise.LONGEST_ROW", 100)
    tokens = torch.randn(1, 101)
    made = kernels.quantize_rows(tokens)
    torch.testing.assert_close(made.values.float() * made.scale, tokens, rtol=0.0625, atol=float(made.scale))
