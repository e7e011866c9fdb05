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
