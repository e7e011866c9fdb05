"""`ltx-a2v check`: what it prints and writes, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ltx_a2v.cli.check import as_line
from ltx_a2v.cli.main import main
from ltx_a2v.cli.report import print_report
from ltx_a2v.events import GenerationResult
from ltx_a2v.media.check import check_video
from tests.media.test_check import film, follows


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return film(tmp_path / "v.mp4", follows(2))


def test_text_json_and_plot(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot, written = video.with_suffix(".png"), video.with_suffix(".json")
    flags = ["--face", "drawn", "--window", "2", "--plot", str(plot), "--json", str(written)]
    assert main(["check", str(video), *flags]) == 0
    face, whole, *parts = capsys.readouterr().out.splitlines()
    assert face == "face: drawn, found in 96 of 96 frames"
    assert "2 frames (83 ms) late (at wrong times of the sound mostly below " in whole
    assert [part.split(":")[0].strip() for part in parts] == ["0.0 to 2.0 s", "2.0 to 4.0 s"]
    found = json.loads(written.read_text())
    assert (found["lag_frames"], found["frames"], len(found["opening"])) == (2, 96, 96)
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 600


def test_mistakes_are_one_sentence(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = video.with_suffix(".json")
    taken.touch()
    for given, sentence in (
        ([str(video.with_name("none.mp4"))], "There is no video"),
        ([str(video), "--window", "0"], "--window 0.0 must be 1 to 3600 seconds"),
        ([str(video), "--json", str(taken)], "exists already; add --overwrite"),
        ([str(video), "--plot", str(video.with_name("p.svg"))], "must end in .png"),
        ([str(video), "--plot", str(video)], "is the same file as the video"),
        ([str(video)], "No face was found"),
    ):
        assert main(["check", *given]) == 2
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if not line.startswith("INFO: Created TensorFlow Lite")]
        assert len(lines) == 1
        assert sentence in lines[0]


def test_an_unknown_kind_of_face(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check", str(video), "--face", "drawm"])
    assert "--face 'drawm' does not exist; did you mean 'drawn'?" in capsys.readouterr().err


def test_a_report_has_a_line_of_it(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync = check_video(video, "drawn").as_json()
    result = GenerationResult(video, 128, 128, 96, 24.0, 1, 2.0, 0.0, {}, "2.3.0", details={"sync": sync})
    print_report(result, "text")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sync: ")]
    assert line == f"sync: {as_line(sync, 24.0)}"
    assert "2 frames (83 ms) late" in line
