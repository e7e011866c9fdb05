"""`ltx-a2v doctor`: one page, each problem with its cure, and an exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltx_a2v import ModelPaths
from ltx_a2v.cli import doctor
from ltx_a2v.cli.main import main


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "READ_BYTES", 2**20)
    monkeypatch.setattr(doctor, "READ_CHUNK", 2**18)


def test_a_machine_and_a_model_without_a_problem(model: ModelPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model-dir", str(model.checkpoint.parent), "--device", "cpu"]) == 0
    page = capsys.readouterr().out
    for part in ("versions: ltx-a2v", "RAM: ", "cache: ", "FFmpeg: PyAV", "disk: ", "PyTorch: ", "files whole"):
        assert part in page
    assert page.endswith("No problem found.\n")


def test_each_problem_has_its_cure(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(model.checkpoint.parent, tmp_path / "model"))
    checkpoint = broken / model.checkpoint.name
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    monkeypatch.setattr(doctor, "DECODERS", ("mp3", "unheard-of"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert main(["doctor", "--model-dir", str(broken), "--device", "cpu"]) == doctor.PROBLEM
    page = capsys.readouterr().out
    lines = page.splitlines()
    problems = [index for index, line in enumerate(lines) if line.startswith("PROBLEM")]
    assert [lines[index].split()[1] for index in problems] == ["cache:", "FFmpeg:", "model:"]
    for index in problems:
        assert lines[index + 1].startswith("         -> ")
    assert page.endswith("3 problems found.\n")


def test_a_gpu_whose_memory_is_taken(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a driver that answers as the file says. torch sees no such GPU here, which is a problem of its own."""
    gpus = json.loads(answers.read_text())
    gpus["GPU-1111-aaaa"]["free"] = 2**30
    answers.write_text(json.dumps(gpus))
    assert main(["doctor"]) == doctor.PROBLEM
    page = capsys.readouterr().out
    assert "ok       driver: 580.1\n" in page
    assert "ok       GPU: Stand-in GPU-1111-aaaa, compute capability 12.0\n" in page
    assert "PROBLEM  VRAM: 1.00 GiB free of 96.00 GiB" in page
    assert "pid 42: 30.00 GiB" in page
    assert "PROBLEM  CUDA: the driver reports a GPU, but PyTorch cannot use it" in page
