"""`ltx-a2v demo`: what it asks of the model, what it writes and prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.cli import demo
from ltx_a2v.cli.main import main
from ltx_a2v.events import Done, Event, GenerationResult
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.puppet import SHIPPED, puppet_paths, puppet_size
from ltx_a2v.puppet.examples import FACE


class Painter:
    """Stands in for the pipeline: its mouth opens as wide as the sound is loud."""

    def __init__(self) -> None:
        self.request: GenerationRequest | None = None

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        self.request = request
        count = 257 if request.num_frames == "auto" else request.num_frames
        clip = load_audio(request.audio, 0.0, count / 24)
        frames = torch.full((count, request.height, request.width, 3), 200, dtype=torch.uint8)
        size = clip.sample_rate // 24
        for index, frame in enumerate(frames):
            loud = clip.waveform[:, index * size : (index + 1) * size].abs().amax() if index else 0
            middle, half = request.width // 2, int(4 + 60 * loud) // 2
            frame[180 - half : 180 + half, middle - 20 : middle + 20] = 20
        path = request.output_path
        with VideoWriter(path, width=request.width, height=request.height, frame_rate=24, audio=clip) as writer:
            writer.write(frames)
        yield Done(GenerationResult(path, request.width, request.height, count, 24.0, 1, 0.0, 0.0, {}, "2.3.0"))


@pytest.fixture
def painter(puppet_model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> Painter:
    painter = Painter()
    monkeypatch.setattr(demo, "puppet_paths", lambda: puppet_model)
    monkeypatch.setattr(A2VPipeline, "open", lambda *_, **__: painter)
    return painter


def test_video_contact_sheet_and_one_line_of_sync(
    painter: Painter, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["demo", "--output-path", str(tmp_path / "v.mp4")]) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("sync:")]
    assert line.endswith(f"see {tmp_path / 'v.png'}")
    assert f"{puppet_size()} miniature that ships with ltx-a2v, not by the 22B model" in printed.err.splitlines()[-1]
    assert painter.request is not None
    assert (painter.request.num_frames, painter.request.num_inference_steps) == (121, 30)
    with Image.open(tmp_path / "v.png") as sheet:
        assert sheet.width == 12 * 128


def test_quality_fast(painter: Painter, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--quality", "fast", "--output-path", str(tmp_path / "v.mp4")]) == 0
    assert painter.request is not None
    assert painter.request.quality == "fast"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--quality", "best"])
    assert stopped.value.code == 2
    assert "--quality 'best' does not exist" in one_line(capsys)


def test_the_report_as_json(painter: Painter, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--report", "json", "--output-path", str(tmp_path / "v.mp4")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contact_sheet"] == str(tmp_path / "v.png")
    assert report["sync"]["correlation"] > 0.5
    assert abs(report["sync"]["lag"]) <= 1


@pytest.mark.parametrize(
    ("picture", "size"), [((640, 360), (384, 256)), ((300, 500), (256, 384)), ((50, 50), (256, 256))]
)
def test_the_size_follows_the_picture(
    painter: Painter, tmp_path: Path, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    Image.new("RGB", picture).save(tmp_path / "face.png")
    assert main(["demo", "--image", str(tmp_path / "face.png"), "--output-path", str(tmp_path / "v.mp4")]) == 0
    assert painter.request is not None
    assert (painter.request.width, painter.request.height) == size


def test_an_earlier_demo_is_kept(painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default name gets a number where one of its two files exists; `--overwrite` replaces a name that is given."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["demo"]) == 0
    Path("demo-3.png").touch()
    assert main(["demo"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["demo-2.mp4", "demo-4.mp4", "demo.mp4"]
    assert main(["demo", "--output-path", "demo.mp4"]) == 2
    assert main(["demo", "--output-path", "demo.mp4", "--overwrite"]) == 0


def test_opening_the_video(painter: Painter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(demo.subprocess, "Popen", lambda command, **_: started.append(command))
    assert main(["demo", "--open", "--output-path", str(tmp_path / "v.mp4")]) == 0
    assert started == [["open" if sys.platform == "darwin" else "xdg-open", str(tmp_path / "v.mp4")]]


def test_no_program_to_open_it(
    painter: Painter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["demo", "--open", "--output-path", str(tmp_path / "v.mp4")]) == 0
    assert capsys.readouterr().err.endswith(f"is not installed; open {tmp_path / 'v.mp4'} yourself.\n")


def test_mistakes_are_one_sentence(
    puppet_model: ModelPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "puppet_paths", lambda: puppet_model)
    face = Path(shutil.copy(FACE, tmp_path / "face.png"))
    for given, sentence in (
        (["--image", str(tmp_path / "none.png")], "There is no image"),
        (["--audio", str(face)], "no audio stream"),
        (
            ["--image", str(face), "--output-path", str(tmp_path / "face.mp4")],
            "is the same file as --image",
        ),
        (["--output-path", str(tmp_path / "v.avi")], "must end in .mp4"),
        (["--output-path", "."], "is a folder; add a file name"),
    ):
        assert main(["demo", "--output-path", str(tmp_path / "v.mp4"), *given]) == 2
        assert sentence in one_line(capsys)
    (tmp_path / SHIPPED.name).write_bytes(SHIPPED.read_bytes()[:-1])
    shutil.copy(SHIPPED.with_suffix(".sha256"), tmp_path)
    monkeypatch.setattr(demo, "puppet_paths", lambda: puppet_paths(tmp_path / SHIPPED.name))
    assert main(["demo", "--output-path", str(tmp_path / "v.mp4")]) == 2
    assert f"{tmp_path / SHIPPED.name}, the puppet's weights, is damaged" in one_line(capsys)
    assert list(tmp_path.glob("v.*")) == []


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ltx_a2v.cli.main", "demo", "--report", "json", "--output-path", tmp_path / "demo.mp4"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["num_frames"], report["width"], report["height"]) == (121, 256, 256)
    assert report["sync"]["correlation"] >= 0.8
    assert abs(report["sync"]["lag"]) <= 1


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err
