"""The Triton kernels compute what their plain forms compute, and `meta` takes the memory of the planned device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx_a2v import kernels


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


def test_a_row_longer_than_a_program_holds_takes_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor with one scale, as Ada's fp8 units want it, is one row of millions."""
    triton_kernels = pytest.importorskip("ltx_a2v.kernels.triton_kernels")
    monkeypatch.setattr("ltx_a2v.kernels.pointwise.fused_on", lambda x: True)
    monkeypatch.setattr(triton_kernels, "LONGEST_ROW", 100)
    tokens = torch.randn(1, 101)
    values, scale = kernels.quantize_rows(tokens, 127, torch.int8)
    torch.testing.assert_close(values * scale, tokens, rtol=0, atol=float(scale))
