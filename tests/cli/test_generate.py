"""`ltx-a2v generate`, as a user meets it: in a process of its own only where that matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, nullcontext
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from ltx_a2v import ModelPaths
from ltx_a2v.cli import progress
from ltx_a2v.cli.main import main
from ltx_a2v.events import Event, WindowStarted
from tests.cli.conftest import EXAMPLES, generate
from tests.conftest import ROOT


def test_generate_end_to_end(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything a user does at once: flags in, one JSON object and an mp4 out."""
    video, latents = tmp_path / "v.mp4", tmp_path / "l.safetensors"
    flags = ["--image", str(EXAMPLES / "robot.png"), "--output-path", str(video), "--save-latents", str(latents)]
    flags += ["--video-stg-blocks", "1", "2", "--video-cfg-guidance-scale", "2.5", "--report", "json", "--seed", "7"]
    assert main(generate(model, *flags)) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["output_path"] == str(video)
    assert (report["width"], report["height"], report["num_frames"], report["seed"]) == (128, 64, 17, 7)
    assert report["model_version"] == "2.3.0"
    assert report["peak_vram_gib"] == 0.0
    assert sum(report["phases"].values()) <= report["elapsed_seconds"]
    assert "stage 1" in err

    saved = load_file(latents)
    assert saved["stage_1"].shape == (1, 128, 3, 1, 2)
    assert saved["stage_2"].shape == (1, 128, 3, 2, 4)
    assert saved["stage_2"].dtype == torch.float32
    with av.open(str(video)) as container:
        assert {stream.codec_context.name for stream in container.streams} == {"h264", "aac"}
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert picture.start_time == 0
        assert sound.start_time == 0
        assert float(picture.duration * picture.time_base) == pytest.approx(17 / 24, abs=1e-3)
        assert float(sound.duration * sound.time_base) == pytest.approx(17 / 24, abs=0.03)
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")).float() for f in container.decode(video=0)]
    assert len(frames) == 17
    assert frames[0].std() > 10
    assert (frames[0] - frames[-1]).abs().mean() > 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--width", "100"], "--width 100 must be a multiple of 64"),
        (["--num-frames", "18"], "use 17 or 25"),
        (["--prompt-style", "opera"], "--prompt-style 'opera' is none of 'none', 'portrait' or 'stage'"),
        (["--enhance-prompt"], "none is set: give --prompt-enhancer-url"),
        (["--prompt-enhancer-url", "http://h/v1"], "needs the model's name: give --prompt-enhancer-model"),
        (["--num-inference-steps", "none"], "--num-inference-steps"),
        (["--image", "missing.png"], "missing.png"),
        (["--audio", "missing.wav"], "missing.wav"),
        (["--audio", str(EXAMPLES / "robot.png")], "robot.png"),
        (["--image", str(EXAMPLES / "speech.wav")], "speech.wav"),
        (["--audio-start-time", "60"], "speech.wav"),
        (["--video-stg-blocks", "28"], "blocks are 0 to 3"),
        (["--checkpoint-path", str(ROOT / "pyproject.toml")], "not a safetensors file"),
        (["--model-dir", "/nonexistent"], "/nonexistent"),
        (["--device", "tpu"], "tpu"),
        (["--output-path", "/nonexistent/v.mp4"], "/nonexistent"),
        (["--dtype", "int3"], "int3"),
        (["--heigth", "64"], "--heigth"),
        (["--model-dir", "a" * 300], "File name too long"),
        (["--lora", "a" * 300 + ":0.5"], "File name too long"),
        (["--quality", "best"], "--quality 'best' is none of 'standard' or 'fast'"),
        (["--video-skip-step", "-1"], "--video-skip-step -1 is too small"),
        (["--video-skip-step", "2"], "--video-skip-step 2 is too large: it must be below --num-inference-steps, 2"),
        (["--video-skip-step", "1", "--quality", "fast"], "cannot be used with --quality fast"),
        (["--distilled-lora-strength", "nan"], "--distilled-lora-strength 'nan' is not a finite number"),
        (["--distilled-lora-strength", "2.5"], "is too large: it must be at most 2"),
        (["--distilled-lora-strength", "strong"], "--distilled-lora-strength 'strong' is not a number"),
        (
            ["--distilled-checkpoint", "--distilled-lora-path", "x"],
            "--distilled-lora-path 'x' and --distilled-checkpoint",
        ),
        (["--distilled-checkpoint", "--distilled-lora-strength", "0.5"], "--distilled-checkpoint exclude each other"),
        (["--distilled-checkpoint", "--quality", "standard"], "use fast, or leave --distilled-checkpoint out"),
        (["--quality", "fast", "--distilled-lora-path", "missing.safetensors"], "missing.safetensors"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    video = tmp_path / "v.mp4"
    try:
        code = main(generate(model, "--output-path", str(video), *flags))
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()

    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    message = next(line for line in err.splitlines() if line.startswith("ltx-a2v"))
    assert message.endswith(".")
    assert list(tmp_path.glob("v*")) == []


def test_fast_by_a_flag_and_by_a_distilled_checkpoint(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    flags = ["--output-path", str(tmp_path / "v.mp4"), "--overwrite", "--report", "json", "--no-marks"]
    videos = []
    for chosen in (["--quality", "fast", "--distilled-lora-strength", "0"], ["--distilled-checkpoint"]):
        assert main(generate(model, *flags, *chosen)) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["quality"] == "fast"
        assert "7 of 8" in err
        videos.append((tmp_path / "v.mp4").read_bytes())
    assert videos[0] == videos[1]
    assert main(generate(model, "--quality", "fast", "--output-path", str(tmp_path / "w.mp4"))) == 0
    assert "seed 42, quality fast" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--model-dir", ""]])
def test_no_model_given(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    monkeypatch.setenv("LTX_A2V_MODEL_DIR", "")
    assert main(["generate", "--prompt", "p", "--audio", "a.wav", *flags]) == 2
    assert "No model files were given" in capsys.readouterr().err


def test_model_dir_of_this_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LTX_A2V_MODEL_DIR", "~/models")
    assert main(["generate", "--prompt", "p", "--audio", "a.wav"]) == 2
    assert f"The model folder {tmp_path / 'models'} does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "says"), [("/dev/full", "No space left on device"), (None, "stdout is closed")])
def test_a_stdout_that_takes_nothing(
    model: ModelPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    target: str | None,
    says: str,
) -> None:
    video, latents = tmp_path / "v.mp4", tmp_path / "l.safetensors"
    arguments = generate(model, "--output-path", str(video), "--save-latents", str(latents), "--num-frames", "1")
    before = os.umask(0o027)
    try:
        with open(target, "w") if target else nullcontext() as out:  # noqa: PTH123
            monkeypatch.setattr(sys, "stdout", out)
            code = main(arguments)
            monkeypatch.undo()
    finally:
        os.umask(before)
    err = capfd.readouterr().err
    assert code == 1, err
    assert says in err.splitlines()[-1]
    assert str(video) in err.splitlines()[-1]
    assert "Traceback" not in err
    assert {path.stat().st_mode & 0o777 for path in (video, latents)} == {0o640}


def test_interrupt_stops_and_leaves_nothing(model: ModelPaths, tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    arguments = generate(model, "--output-path", str(video), "--num-inference-steps", "1000")
    process = subprocess.Popen(
        [sys.executable, "-m", "ltx_a2v.cli.main", *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    while process.poll() is None and "load the transformer" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    assert "stopped" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_silently(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is given is refused where a file is; the default name gets a number instead."""
    monkeypatch.chdir(tmp_path)
    video, latents = tmp_path / "v.mp4", tmp_path / "l.safetensors"
    video.write_bytes(b"mine")
    assert main(generate(model, "--output-path", str(video))) == 2
    assert f"--output-path {video} exists already; add --overwrite" in capsys.readouterr().err
    latents.write_bytes(b"mine")
    assert main(generate(model, "--save-latents", str(latents))) == 2
    assert f"--save-latents {latents} exists already" in capsys.readouterr().err
    assert (video.read_bytes(), latents.read_bytes()) == (b"mine", b"mine")
    Path("output.mp4").write_bytes(b"mine")
    assert main(generate(model, "--num-frames", "9")) == 0
    assert Path("output.mp4").read_bytes() == b"mine"
    said = capsys.readouterr()
    assert said.out.startswith("output-2.mp4: 128x64, 9 frames")
    assert said.err.startswith("ltx-a2v 0")  # the first line, before libraries are loaded
    assert "\nplan: transformer unquantized" in said.err
    assert main(generate(model, "--num-frames", "9", "--output-path", str(video), "--overwrite")) == 0
    assert video.read_bytes() != b"mine"


def test_a_checkpoint_is_not_overwritten_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing = tmp_path / "q.safetensors"
    existing.write_bytes(b"mine")
    flags = ["--checkpoint-path", "c.safetensors", "--transformer-quantization", "int8"]
    assert main(["quantize", *flags, "--output-path", str(existing)]) == 2
    assert "exists already; add --overwrite" in capsys.readouterr().err


def test_the_enhancers_flag_is_a_wish_and_its_variable_only_a_possibility(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens there, so a notice says whether it was asked; the sync of an untrained model is said too."""
    address = {"prompt-enhancer-url": "http://127.0.0.1:9/v1", "prompt-enhancer-model": "m"}
    for name, value in address.items():
        monkeypatch.setenv(f"LTX_A2V_{name.upper().replace('-', '_')}", value)
    flags = ["--prompt-style", "portrait", "--check-sync", "--output-path", str(tmp_path / "v.mp4"), "--overwrite"]
    assert main(generate(model, *flags)) == 0
    out = capsys.readouterr().out
    assert "prompt enhancer" not in out
    assert "note: The prompt became: A close-up of one person" in out
    assert "The sync was not measured" in out
    given = [part for name, value in address.items() for part in (f"--{name}", value)]
    assert main(generate(model, *flags, *given)) == 0
    assert "Your own words are used: the prompt enhancer cannot be reached" in capsys.readouterr().out


def test_ctrl_c_says_where_finished_windows_are_kept(
    model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(events: Generator[Event]) -> None:
        with closing(events):
            next(event for event in events if isinstance(event, WindowStarted))
            raise KeyboardInterrupt

    monkeypatch.setattr("ltx_a2v.cli.progress.watch", stopped)
    long = ["--num-frames", "49", "--window-frames", "25", "--window-overlap", "9"]
    video, work = tmp_path / "v.mp4", tmp_path / "work"
    assert main(generate(model, *long, "--output-path", str(video), "--work-dir", str(work))) == 130
    kept = f"stopped; finished windows are kept in {work}. The same command goes on there."
    assert kept in capsys.readouterr().err
    assert work.exists()
    assert main(generate(model, *long, "--output-path", str(video))) == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
