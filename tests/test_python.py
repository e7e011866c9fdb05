"""What a Python program meets: names in errors, `~`, short texts for values, the bar, and quiet imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, Budget, GenerationRequest, Guidance, LoadOptions, ModelPaths, StyleLora
from ltx_a2v.errors import InvalidModel, InvalidRequest


def test_home_is_expanded_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    request = GenerationRequest(prompt="p", audio="~/a.wav", image="~/f.png", output_path="~/o.mp4", save_latents="~/l")
    assert request.audio == tmp_path / "a.wav"
    assert (request.image, request.output_path) == (tmp_path / "f.png", tmp_path / "o.mp4")
    assert request.save_latents == tmp_path / "l"
    assert StyleLora(Path("~/style.safetensors")).path == tmp_path / "style.safetensors"
    assert ModelPaths(Path("~/c"), Path("~/d"), Path("~/u"), Path("~/g")).checkpoint == tmp_path / "c"
    with pytest.raises(InvalidModel, match=f"The model folder {tmp_path}/models does not exist"):
        ModelPaths.discover("~/models")
    assert GenerationRequest(prompt="p", audio="~nobody-of-that-name/a.wav").audio == Path("~nobody-of-that-name/a.wav")


def test_values_are_shown_short(model: ModelPaths) -> None:
    request = GenerationRequest(prompt="p" * 100, audio="a.wav", width=128, guidance=Guidance(cfg=2))
    assert repr(request) == (
        f"GenerationRequest(prompt='{'p' * 55}...', audio='a.wav', width=128, guidance=Guidance(cfg=2.0))"
    )
    assert repr(LoadOptions(budget=Budget("8GiB"))).startswith("LoadOptions(budget=Budget(text='8GiB'")
    assert repr(LoadOptions()) == "LoadOptions()"
    assert len(repr(model)) < 300


def test_a_plan_and_a_result_are_shown_short(
    pipeline: A2VPipeline, small_request: GenerationRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repr(pipeline.plan(small_request)).startswith("Plan(budget unlimited, peak ")
    result = pipeline.run(small_request, progress=True)
    assert "128x64, 9 frames" in repr(result)
    bars = capsys.readouterr()
    assert "stage 1, half size: 100%" in bars.err
    assert "plan: transformer unquantized" in bars.out + bars.err
    pipeline.run(small_request)
    assert capsys.readouterr() == ("", "")


def test_errors_speak_of_names_in_python(pipeline: A2VPipeline) -> None:
    for make, says in (
        (lambda: Budget("10"), "vram_budget 10 has no unit; write 10GiB."),
        (lambda: GenerationRequest(prompt="p", audio="a", width=3), "width 3 must be"),
        (lambda: Guidance(cfg=-1), "guidance.cfg -1 is too small"),
        (lambda: pipeline.plan_for(GenerationRequest(prompt="p", audio="a")), "num_frames 'auto' depends on"),
    ):
        with pytest.raises(InvalidRequest) as error:
            make()
        assert str(error.value).startswith(says)
        assert "--" not in str(error.value)


@pytest.mark.slow
def test_the_import_says_nothing_and_leaves_optional_libraries_out() -> None:
    script = "import sys; from ltx_a2v import A2VPipeline; assert 'bitsandbytes' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
