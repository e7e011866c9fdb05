"""`ltx-a2v plan`, as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.cli.main import main
from ltx_a2v.errors import shown_value
from ltx_a2v.planning.probe import Speeds

SMALL = ["--device", "cpu", "--width", "128", "--height", "64", "--num-frames", "9", "--num-inference-steps", "2"]


@pytest.fixture
def given(model: ModelPaths) -> list[str]:
    return ["plan", "--model-dir", str(model.checkpoint.parent), *SMALL]


@pytest.fixture(scope="module")
def speeds(model: ModelPaths) -> Speeds:
    """Measured once: it takes seconds."""
    pipeline = A2VPipeline.open(model, device="cpu")
    return pipeline.measure(GenerationRequest(prompt="", audio="-", width=128, height=64, num_frames=9))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, speeds: Speeds) -> None:
    monkeypatch.setattr(A2VPipeline, "measure", lambda pipeline, request: speeds)


def test_the_smallest_budget_works_and_less_does_not(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--vram-budget", "1MiB"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    smallest = re.search(r"the smallest budget that works is ([\d.]+ MiB)", said)
    assert smallest
    assert main([*given, "--vram-budget", smallest[1]]) == 0
    assert f"the smallest budget at this size is {smallest[1]}" in " ".join(capsys.readouterr().out.split())
    less = float(smallest[1].split()[0]) - 0.2
    assert main([*given, "--vram-budget", f"{less:.1f}MiB"]) == 2


def test_measured_and_estimated_are_distinguished(
    given: list[str], measured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--vram-budget", "unlimited", "--measure"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "measured here: reading" in said
    assert "Estimated from that: steps, decoding and the text encoder" in said
    assert "Left out:" in said


def test_json_has_what_the_table_has(given: list[str], measured: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--vram-budget", "unlimited", "--measure", "--json", "--modes", "int8,none"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in rows] == ["int8", "none"]
    for row in rows:
        assert row["fits"]
        assert row["peak_gib"] == max(row["phases"].values())
        seconds = row["seconds"]
        assert seconds["steps"] == pytest.approx(2 * seconds["step_1"] + 3 * seconds["step_2"], abs=0.01)
        assert seconds["total"] >= seconds["steps"]


def test_quality_fast(given: list[str], measured: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {}
    for quality in ("standard", "fast"):
        flags = ["--vram-budget", "unlimited", "--measure", "--json", "--quality", quality]
        assert main([*given, *flags]) == 0
        (rows[quality],) = json.loads(capsys.readouterr().out)
        assert rows[quality]["quality"] == quality
    seconds = rows["fast"]["seconds"]
    assert seconds["steps"] == pytest.approx(8 * seconds["step_1"] + 3 * seconds["step_2"], abs=0.02)
    assert main([*given, "--vram-budget", "unlimited", "--quality", "fast"]) == 0
    assert "128x64, 9 frames, quality fast" in capsys.readouterr().out


def test_a_long_video_says_its_windows_and_how_to_go_on(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--vram-budget", "unlimited", "--num-frames", "401"]) == 0
    said = capsys.readouterr().out
    assert "128x64, 401 frames in 2 windows" in said
    assert "--work-dir work\n" in said


def test_with_other_services(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--coexist", "1GiB", "--modes", "int8,none"]) == 0
    assert re.search(
        r"With 1GiB for others:\n  ltx-a2v generate .* --vram-budget [\d.]+GiB --transformer-quantization int8\n",
        capsys.readouterr().out,
    )
    assert main([*given, "--coexist", "9000GiB"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"ltx-a2v: --coexist '9000GiB' leaves nothing of this device's [\d.]+ GiB with .*\n", error)


@pytest.mark.parametrize("budget", ["0", "-5GiB", "12 parsecs", "100.1%", "0%", "nan%", "inf", "٣GiB", "AUTO", ""])
def test_nonsense_is_one_sentence(given: list[str], capsys: pytest.CaptureFixture[str], budget: str) -> None:
    assert main([*given, f"--vram-budget={budget}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ltx-a2v: --vram-budget {shown_value(budget)} ")
    assert error.count("\n") == 1


def test_frames_that_depend_on_the_audio(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--num-frames", "auto"]) == 2
    assert capsys.readouterr().err == (
        "ltx-a2v: --num-frames 'auto' depends on the audio, which a plan does not read; give a number.\n"
    )


def test_host_memory_is_an_amount_or_none_at_all(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--host-memory", "0"]) == 0
    assert main([*given, "--host-memory", "some"]) == 2
    assert capsys.readouterr().err == (
        "ltx-a2v: --host-memory 'some' is not an amount of memory; write 12GiB, 8G, 0, auto.\n"
    )


def test_this_machine_comes_first_and_the_table_fits_80_columns(
    given: list[str], measured: None, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver answers as a file says; the plans are for a CPU, so that they work here."""
    given = [flag for flag in given if flag not in ("--device", "cpu")]
    assert main([*given, "--vram-budget", "12GiB", "--measure"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("This machine: Stand-in GPU-1111-aaaa, 50.00 GiB of 96.00 GiB free; RAM ")
    assert lines[2] == "Recommended:"
    assert lines[3].startswith("  ltx-a2v generate --image face.png --audio speech.wav --prompt '...' --model-dir ")
    assert lines[3].endswith(" --vram-budget 12GiB")
    assert max(map(len, lines[4:])) <= 80


def test_budgets_share_one_note(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 0
    said = capsys.readouterr().out
    assert said.count("smallest budget") == 1
    assert [row.split()[1] for row in said.splitlines() if re.match(r" ?\d+GiB ", row)] == ["file"] * 7
