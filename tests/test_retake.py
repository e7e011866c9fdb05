"""A part of a finished video is made again; everything else of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.cli.main import main
from ltx_a2v.errors import InvalidInput, InvalidRequest
from ltx_a2v.fitting import CONTEXT, FADED, _around
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.media.frames import from_yuv420p, to_yuv420p
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.request import Retake
from ltx_a2v.settings.loading import LoadOptions
from tests.conftest import ROOT

SPEECH = ROOT / "examples" / "speech.wav"
FRAMES = 57
CHANGED = range(24, 36)
"""Seconds 1 to 1.5."""


def luma(video: Path) -> np.ndarray[Any, Any]:
    with av.open(video) as container:
        return np.stack([frame.to_ndarray()[:64] for frame in container.decode(video=0)]).astype(int)


def samples(video: Path) -> int:
    with av.open(video) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


@pytest.fixture(scope="module")
def source(pipeline: A2VPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("source") / "source.mp4"
    size = {"width": 128, "height": 64, "num_frames": FRAMES, "num_inference_steps": 1}
    pipeline.run(GenerationRequest(prompt="It speaks.", audio=SPEECH, output_path=output, **size))
    return output


def retake(source: Path, output: Path, start: float = 1.0, end: float = 1.5, **fields: Any) -> GenerationRequest:
    given = {"audio": source, "num_inference_steps": 1, **fields}
    part = Retake(video=source, start=start, end=end)
    return GenerationRequest(prompt="It speaks.", output_path=output, retake=part, **given)


def test_only_the_part_changes(pipeline: A2VPipeline, source: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.mp4", tmp_path / "other.mp4"
    result = pipeline.run(retake(source, one, seed=1))
    assert (result.num_frames, result.width, result.height, result.frame_rate) == (FRAMES, 128, 64, 24)
    pipeline.run(retake(source, other, seed=2, audio=SPEECH))
    before, after, another = luma(source), luma(one), luma(other)
    assert after.shape == before.shape
    changes = np.abs(after - before).mean(axis=(1, 2))
    outside = [changes[i] for i in range(FRAMES) if i not in CHANGED]
    inside = changes[CHANGED.start + FADED : CHANGED.stop - FADED]
    assert max(outside) < 4 < inside.min()  # H.264 of noise once more, and a new picture
    assert np.abs(after - another).mean(axis=(1, 2))[CHANGED.start + FADED : CHANGED.stop - FADED].min() > 4
    assert abs(samples(one) - samples(source)) <= 1024
    assert abs(samples(other) - samples(source)) <= 1024


def test_the_plan_knows_the_frames_that_are_encoded(model: ModelPaths, source: Path, tmp_path: Path) -> None:
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions("none", prompt_cache=False))
    request = retake(source, tmp_path / "a.mp4")
    plan = pipeline.plan(request)
    list(pipeline.generate(request, pipeline.plan(request, Budget(f"{plan.smallest}B"))))  # whose limit is kept
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("changed", "total", "start", "frames"),
    [
        (range(48, 60), 105, 16, 81),
        (range(0, 12), 105, 0, 49),
        (range(95, 105), 105, 56, 49),
        (range(0, 25), 25, 0, 25),
        (range(10, 20), 30, 0, 25),
        (range(25, 30), 30, 5, 25),
        (range(400, 560), 1000, 368, 225),
    ],
)
def test_what_is_computed_lies_in_the_video_around_the_part(
    changed: range, total: int, start: int, frames: int
) -> None:
    assert _around(changed, total) == (start, frames)
    assert start <= changed.start
    assert changed.stop <= start + frames <= total
    assert frames % 8 == 1
    assert CONTEXT % 8 == 0


def test_planes_become_colours_again() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 4, 4), size=(64, 64), mode="bilinear")
    frames = smooth.transpose(0, 1)[None] * 1.6 - 0.8
    back = from_yuv420p(to_yuv420p(frames))
    assert (back - frames).abs().mean() < 0.01
    assert (back - frames).mean().abs() < 0.001


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (5.0, 6.0, "retake.start 5.0 is after the end of the video, 2.38 s"),
        (2.0, 6.0, "retake.end 6.0 is after the end of the video, 2.38 s"),
    ],
)
def test_ranges_outside(
    pipeline: A2VPipeline, source: Path, tmp_path: Path, start: float, end: float, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pipeline.run(retake(source, tmp_path / "a.mp4", start, end))


def test_ranges_that_are_none(source: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"retake.end 2.0 must be after the start, 2.0"):
        Retake(video=source, start=2.0, end=2.0)
    with pytest.raises(InvalidRequest, match=r"retake.start -1"):
        Retake(video=source, start=-1, end=2.0)


def test_videos_that_cannot_be_used(pipeline: A2VPipeline, tmp_path: Path) -> None:
    odd, text, long = tmp_path / "odd.mp4", tmp_path / "text.mp4", tmp_path / "long.mp4"
    with VideoWriter(odd, width=96, height=64, frame_rate=24, audio=None) as writer:
        writer.write(torch.zeros(30, 64, 96, 3, dtype=torch.uint8))
    with VideoWriter(long, width=64, height=64, frame_rate=24, audio=None) as writer:
        writer.write(torch.zeros(300, 64, 64, 3, dtype=torch.uint8))
    text.write_text("no video")
    with pytest.raises(InvalidRequest, match="has a side of 96 pixels; scale it to multiples of 64 up to 4096"):
        pipeline.run(retake(odd, tmp_path / "a.mp4", 0.2, 0.5, audio=SPEECH))
    with pytest.raises(InvalidInput, match=r"text.mp4 cannot be read as a video"):
        pipeline.run(retake(text, tmp_path / "a.mp4", audio=SPEECH))
    with pytest.raises(InvalidRequest, match=r"retake.end 10.0 is 9.0 s after the start; at most 8.0 s are made"):
        pipeline.run(retake(long, tmp_path / "a.mp4", 1, 10, audio=SPEECH))
    assert not (tmp_path / "a.mp4").exists()


def flags(model: ModelPaths, video: Path, *more: str) -> list[str]:
    return ["retake", str(video), "--model-dir", str(model.checkpoint.parent), "--device", "cpu", *more]


def test_the_command(model: ModelPaths, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "talk.mp4"
    video.write_bytes(source.read_bytes())
    part = ("--from", "1", "--to", "1.5", "--num-inference-steps", "1")
    assert main(flags(model, video, *part)) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'talk-retake.mp4'}: 128x64, {FRAMES} frames")
    assert main(flags(model, video, *part, "--output-path", str(video), "--overwrite")) == 2
    assert "is the same file as the video" in capsys.readouterr().err
    assert video.read_bytes() == source.read_bytes()


def test_mistakes_of_the_command(model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent, picture = tmp_path / "silent.mp4", tmp_path / "picture.png"
    with VideoWriter(silent, width=64, height=64, frame_rate=24, audio=None) as writer:
        writer.write(torch.zeros(60, 64, 64, 3, dtype=torch.uint8))
    Image.new("RGB", (64, 64)).save(picture)
    part = ("--from", "0.5", "--to", "1")
    for video, message in (
        (silent, f"{silent} has no sound; give the speech with --audio."),
        (tmp_path / "nowhere.mp4", f"There is no video {tmp_path / 'nowhere.mp4'}; check the path."),
        (picture, f"{picture} holds no moving pictures; give a video."),
    ):
        assert main(flags(model, video, *part)) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert main(flags(model, silent, "--from", "2", "--to", "1")) == 2
    assert "--to 1.0 must be after the start, 2.0" in capsys.readouterr().err
