"""`--say TEXT`: text alone becomes a video, and its sound stays next to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.cli import demo, speech
from ltx_a2v.cli.main import main
from ltx_a2v.errors import OutOfMemory
from ltx_a2v.events import Event
from ltx_a2v.marks.inspection import inspect_video
from ltx_a2v.media.sound import voice
from tests.cli.conftest import EXAMPLES
from tests.media.test_voice import needs_voice


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Stands in for the voice: what was to be said, and by whom."""
    said: list[tuple[str, str]] = []

    def speak(text: str, name: str, path: Path) -> None:
        said.append((text, name))
        shutil.copy(EXAMPLES / "speech.wav", path)

    monkeypatch.setattr(voice, "_folder_of", lambda _: tmp_path)
    monkeypatch.setattr(speech, "speak", speak)
    return said


class Failing:
    """A pipeline that fails, or is stopped, after the sound was spoken."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.request: GenerationRequest | None = None

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        self.request = request
        assert request.audio.is_file()
        assert request.num_frames == "auto"
        raise self.error
        yield


def _generate(model: ModelPaths, output: Path, *flags: str) -> int:
    size = ["--width", "128", "--height", "64", "--num-frames", "9", "--num-inference-steps", "1", "--device", "cpu"]
    files = ["--model-dir", str(model.checkpoint.parent), "--output-path", str(output)]
    return main(["generate", *files, *size, "--prompt", "A robot speaks.", *flags])


def test_text_alone_makes_a_video(
    speaker: list[tuple[str, str]], model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert _generate(model, output, "--say", "Hello.", "--voice", "jf_gongitsune") == 0
    assert speaker == [("Hello.", "jf_gongitsune")]
    assert f"the voice jf_gongitsune speaks 6 characters: {tmp_path / 'out.wav'}" in capsys.readouterr().err
    (sound,) = [each for each in inspect_video(output).settings["inputs"] if each["kind"] == "sound"]
    assert sound["sha256"] == hashlib.sha256((tmp_path / "out.wav").read_bytes()).hexdigest()
    output.unlink()
    assert _generate(model, output, "--say", "Hello.") == 2  # the sound is a file of the user by now
    assert "out.wav exists already; add --overwrite to replace it" in capsys.readouterr().err
    assert len(speaker) == 1


def test_a_sound_that_exists_is_kept(
    speaker: list[tuple[str, str]], model: ModelPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The default name gets a number, as where the video exists."""
    stopped = Failing(OutOfMemory("No memory."))
    monkeypatch.setattr("ltx_a2v.session.open_pipeline", lambda _: stopped)
    monkeypatch.chdir(tmp_path)
    Path("output.wav").write_text("mine")
    model_dir = str(model.checkpoint.parent)
    assert main(["generate", "--model-dir", model_dir, "--device", "cpu", "--prompt", "p", "--say", "Hello."]) == 1
    assert stopped.request is not None
    assert (stopped.request.output_path, stopped.request.audio) == (Path("output-2.mp4"), Path("output-2.wav"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("error", "code"), [(OutOfMemory("No memory."), 1), (KeyboardInterrupt(), 130)])
def test_a_sound_without_a_video_is_removed(
    speaker: list[tuple[str, str]], error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the same command can be repeated."""
    monkeypatch.setattr(A2VPipeline, "open", lambda *_, **__: Failing(error))
    monkeypatch.setattr(demo, "puppet_paths", lambda: None)
    assert main(["demo", "--say", "Hello.", "--output-path", str(tmp_path / "v.mp4")]) == code
    assert speaker == [("Hello.", "jm_kumo")]
    assert list(tmp_path.glob("v.*")) == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--say", "Hello.", "--audio", "a.wav"], "--audio and --say both give the sound; give one of them."),
        (["--voice", "jm_kumo"], "--voice 'jm_kumo' is only for --say; add it, with the words to speak."),
        (["--say", ""], "--say '' is empty; give the words to speak."),
        (["--say", "Hi.", "--voice", "kumo"], "--voice 'kumo' does not exist; did you mean 'jm_kumo'?"),
    ],
)
@pytest.mark.parametrize("command", ["demo", "generate"])
def test_mistakes(
    speaker: list[tuple[str, str]],
    command: str,
    flags: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    required = ["--prompt", "p", "--audio", "a.wav"] if command == "generate" else ["--prompt", "p"]
    given = required[: 2 if "--say" in flags else None]
    assert main([command, *given, "--output-path", str(tmp_path / "v.mp4"), *flags]) == 2
    assert capsys.readouterr().err == f"ltx-a2v: {says}\n"
    assert (speaker, list(tmp_path.iterdir())) == ([], [])


def test_neither_text_nor_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "p"]) == 2
    assert "These flags are required: --audio or --say; see" in capsys.readouterr().err


@needs_voice
@pytest.mark.slow
def test_the_mouth_of_the_miniature_follows_the_voice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--quality", "fast", "--report", "json", "--output-path", str(tmp_path / "v.mp4")]
    assert main(["demo", "--say", "Hello, I am here.", *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sync"]["correlation"] > 0.7
    assert abs(report["sync"]["lag"]) <= 1
    assert (tmp_path / "v.wav").is_file()
