"""The command line, as a user meets it: in a process of its own where that matters."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from ltx_a2v import ModelPaths, miniature
from ltx_a2v.cli.main import main
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


def generate(model: ModelPaths, *more: str) -> list[str]:
    return [
        "generate",
        *("--model-dir", str(model.checkpoint.parent)),
        *("--prompt", "A robot speaks.", "--audio", str(EXAMPLES / "speech.wav")),
        *("--width", "128", "--height", "64", "--num-frames", "17", "--num-inference-steps", "2", "--device", "cpu"),
        *more,
    ]


def test_generate_end_to_end(model: ModelPaths, tmp_path: Path) -> None:
    """Everything a user does at once: flags in, one JSON object and an mp4 out."""
    video, latents = tmp_path / "v.mp4", tmp_path / "l.safetensors"
    flags = ["--image", str(EXAMPLES / "robot.png"), "--output-path", str(video), "--save-latents", str(latents)]
    flags += ["--video-stg-blocks", "1", "2", "--video-cfg-guidance-scale", "2.5", "--report", "json", "--seed", "7"]
    done = subprocess.run(
        [sys.executable, "-m", "ltx_a2v", *generate(model, *flags)],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["output_path"] == str(video)
    assert (report["width"], report["height"], report["num_frames"], report["seed"]) == (128, 64, 17, 7)
    assert report["model_version"] == "2.3.0"
    assert report["peak_vram_gib"] == 0.0
    assert sum(report["phases"].values()) <= report["elapsed_seconds"]
    assert "stage_1" in done.stderr

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
        (["--width", "100"], "--width '100': must be a multiple of 64"),
        (["--num-frames", "18"], "use 17 or 25"),
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


@pytest.mark.parametrize(("target", "says"), [("/dev/full", "No space left on device"), ("&-", "stdout is closed")])
def test_a_stdout_that_takes_nothing(model: ModelPaths, tmp_path: Path, target: str, says: str) -> None:
    video, latents = tmp_path / "v.mp4", tmp_path / "l.safetensors"
    arguments = generate(model, "--output-path", str(video), "--save-latents", str(latents), "--num-frames", "1")
    command = shlex.join([sys.executable, "-m", "ltx_a2v", *arguments])
    done = subprocess.run(
        ["sh", "-c", f"umask 027; {command} >{target}"], stderr=subprocess.PIPE, text=True, timeout=120
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert says in last
    assert str(video) in last
    assert "Traceback" not in done.stderr
    assert {path.stat().st_mode & 0o777 for path in (video, latents)} == {0o640}


def test_help_into_a_full_disk() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ltx_a2v --help >/dev/full"], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_a_cache_folder_that_is_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path / "file"))
    assert main(["demo", "--output-path", str(tmp_path / "v.mp4")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_an_interrupted_miniature_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(path: Path, content: object) -> None:
        assert path.parent.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(miniature, "_write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        miniature.ensure_miniature(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_libraries_are_imported(number: signal.Signals) -> None:
    script = "import os, sys\nfrom ltx_a2v.cli.stopping import importing\n"
    script += f"try:\n with importing(): os.kill(os.getpid(), {int(number)})\nexcept BaseException: sys.exit(1)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "ltx-a2v: stopped; nothing was written.\n"


def test_interrupt_stops_and_leaves_nothing(model: ModelPaths, tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    arguments = generate(model, "--output-path", str(video), "--num-inference-steps", "1000")
    process = subprocess.Popen(
        [sys.executable, "-m", "ltx_a2v.cli.main", *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    while process.poll() is None and "stage_1 3/1000" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    assert "stopped" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ltx_a2v.cli.main", "demo", "--output-path", str(tmp_path / "demo.mp4")],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "demo.mp4"))


def test_help_does_not_load_torch() -> None:
    script = "import sys, ltx_a2v.cli.main as c\ntry: c.main(['generate', '--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run([sys.executable, "-c", script + "assert 'torch' not in sys.modules"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
