"""`ltx-a2v bench synthetic` and `run`, as a user meets them, on a model of toy size and a CPU."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.bench import runner
from ltx_a2v.bench.device import device_name
from ltx_a2v.cli.main import main
from ltx_a2v.events import PHASES
from tests.bench.lines import run, write

SMALL = ("--device", "cpu", "--sizes", "128x64", "--frames", "9", "--steps", "2", "--runs", "2")


def bench(model: ModelPaths, output: Path, *more: str) -> list[str]:
    return ["bench", "run", "--model-dir", str(model.checkpoint.parent), "--output", str(output), *SMALL, *more]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One mode without a limit, and within a budget in which nothing fits."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTX_A2V_CACHE_DIR", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        output = folder / "results.jsonl"
        assert main(bench(model, output, "--modes", "int8", "--budgets", "unlimited,1MiB")) == 0
        yield output


def test_a_line_per_run(measured: Path, model: ModelPaths) -> None:
    first, second, profile, error = lines(measured)
    assert [line["kind"] for line in (first, second, profile, error)] == ["run", "run", "profile", "error"]
    assert (first["run"], second["run"]) == (1, 2)
    assert first["case"] == second["case"]
    assert first["case"]["model"] == model.checkpoint.name
    assert first["machine"]["device"] == device_name("cpu")
    assert first["machine"]["peak_tflops"]["float32"] > 0
    assert profile["measured"] == {"kernel_seconds": None, "copy_seconds": None}


def test_what_a_run_says(measured: Path) -> None:
    first, second = (line["measured"] for line in lines(measured)[:2])
    assert tuple(first["phases"]) == PHASES
    assert sum(first["phases"].values()) <= first["seconds"] + 0.01
    for stage, count in (("stage_1", 1), ("stage_2", 2)):
        steps = first["steps"][stage]
        assert steps["count"] == count
        assert 0 < steps["least"] <= steps["median"] <= steps["most"]
        assert steps["first"] + count * steps["least"] <= first["phases"][stage] + 0.01
        rate = first["tflop_per_step"][stage] / steps["median"]
        assert first["tflops"][stage] == pytest.approx(rate, rel=0.05, abs=1e-4)
    assert first["memory"]["reserved_gib"] is first["memory"]["driver_gib"] is None
    assert len(first["file_sha256"]) == 64
    assert first["file_sha256"] == second["file_sha256"]
    assert first["prompts_encoded"] == second["prompts_encoded"] == 0


def test_what_does_not_fit_is_a_line(measured: Path) -> None:
    error = lines(measured)[-1]
    assert error["case"]["budget"] == "1MiB"
    assert error["error"]["code"] == "budget_too_small"
    assert "the smallest budget that works" in error["error"]["message"]


def test_results_become_a_table(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "table", str(measured)]) == 0
    assert "| `int8` | unlimited | all |" in capsys.readouterr().out


def test_an_interrupted_sweep_continues(
    measured: Path, model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run is missing: it is measured, and nothing else."""
    output = tmp_path / "results.jsonl"
    first, _, _, error = measured.read_text().splitlines(keepends=True)
    output.write_text(first + error)
    command = bench(model, output, "--modes", "int8", "--budgets", "unlimited,1MiB")
    assert main(command) == 0
    assert [line.get("run") for line in lines(output)] == [1, None, 2, None]
    assert lines(output)[2]["measured"]["file_sha256"] == json.loads(first)["measured"]["file_sha256"]
    done = output.read_bytes()
    capsys.readouterr()
    assert main(command) == 0
    assert output.read_bytes() == done
    assert "0 runs measured" in capsys.readouterr().out


@pytest.mark.slow
def test_cold_runs_pay_for_the_start(model: ModelPaths, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    assert main(bench(model, output, "--modes", "none", "--budgets", "unlimited", "--cold", "--runs", "1")) == 0
    (line,) = lines(output)
    assert line["case"]["start"] == "cold"
    assert line["measured"]["start_seconds"] > 0.1
    assert line["measured"]["seconds"] > line["measured"]["start_seconds"]
    assert line["measured"]["peak_share"]["stage_1"] > 0


def test_the_time_limit_is_kept(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The worker has not even started by then."""
    output = tmp_path / "results.jsonl"
    started = time.monotonic()
    assert main(bench(model, output, "--modes", "int8,none", "--budgets", "unlimited", "--time-limit", "1")) == 0
    assert time.monotonic() - started < 1.5
    assert not output.exists()
    assert "2 of 2 combinations are left" in capsys.readouterr().err


def test_a_worker_that_dies_is_recorded(
    model: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nread settings\nread job\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    output = tmp_path / "results.jsonl"
    assert main(bench(model, output, "--modes", "int8,none", "--budgets", "unlimited")) == 1
    for mode, line in zip(("int8", "none"), lines(output), strict=True):
        assert line["case"]["mode"] == mode
        assert line["error"]["code"] == "worker_failed"
        assert "SIGKILL" in line["error"]["message"]


def test_stopped_by_the_user(
    model: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner._Worker, "ask", lambda *_: signal.raise_signal(signal.SIGINT))
    output = tmp_path / "results.jsonl"
    assert main(bench(model, output, "--modes", "int8", "--budgets", "unlimited")) == 130
    assert capsys.readouterr().err == (
        f"ltx-a2v: stopped; {output} holds the runs that ended, and the same command continues.\n"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--modes", "int9"), "int9"),
        (("--modes", ","), "--modes"),
        (("--sizes", "big"), "--sizes 'big'"),
        (("--sizes", "770x512"), "--sizes '770x512' width must be a multiple of 64"),
        (("--budgets", "12 parsecs"), "--budgets '12 parsecs'"),
        (("--frames", "10"), "--frames 10 must be 8k+1"),
        (("--steps", "0"), "--steps 0"),
        (("--runs", "0"), "--runs 0"),
        (("--time-limit", "0"), "--time-limit 0"),
        (("--time-limit", "nan"), "--time-limit nan"),
        (("--output", "/nowhere/results.jsonl"), "/nowhere"),
        (("--keep-bf16-blocks", "many"), "'many' is not a list of blocks"),
    ],
)
def test_mistakes_are_one_sentence(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    output = tmp_path / "results.jsonl"
    assert main(bench(model, output, *flags)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_folder_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "--model-dir", str(tmp_path), "--output", str(tmp_path / "results.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("ltx-a2v: No checkpoint")


@pytest.mark.slow
def test_a_damaged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found by the worker; it is an error of the whole sweep."""
    folder = tmp_path / "model"
    assert main(["bench", "synthetic", "--size", "tiny", "--output", str(folder)]) == 0
    next(folder.glob("ltx-2.3-miniature.safetensors")).write_bytes(b"nothing")
    capsys.readouterr()
    output = tmp_path / "results.jsonl"
    assert main(["bench", "run", "--model-dir", str(folder), "--output", str(output), *SMALL]) == 2
    assert "ltx-2.3-miniature.safetensors" in capsys.readouterr().err
    assert not output.exists()


def test_results_of_another_machine(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write(tmp_path / "results.jsonl", run())
    assert main(bench(model, output)) == 2
    error = capsys.readouterr().err
    assert "NVIDIA H100 80GB HBM3" in error
    assert error.count("\n") == 1
    assert len(lines(output)) == 1


def test_synthetic_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real shapes; on the disk they take next to nothing."""
    folder, other = tmp_path / "model", tmp_path / "other"
    command = ["bench", "synthetic", "--headers-only", "--output", str(folder), "--second-output", str(other)]
    assert main(command) == 0
    flags = capsys.readouterr().out.split()
    given = dict(zip(flags[::2], map(Path, flags[1::2]), strict=True))
    paths = ModelPaths(*given.values())
    assert list(given) == ["--checkpoint-path", "--distilled-lora-path", "--spatial-upsampler-path", "--gemma-root"]
    assert paths.checkpoint.parent == folder
    assert paths.gemma_root.parent == paths.distilled_lora.parent == other
    assert paths.checkpoint.stat().st_size > 40e9
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file()) < 20e6
    assert A2VPipeline.open(paths, device="cpu").model.config.num_layers == 48


def test_synthetic_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for size in ("tiny", "full"):
        assert main(["bench", "synthetic", "--size", size, "--output", str(tmp_path / "file")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
