"""What a request becomes by its files: its size, its length, and what is said where something is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ltx_a2v import GenerationRequest, ModelPaths
from ltx_a2v.fitting import FittedRequest, fit_request
from ltx_a2v.model.files import ModelFiles


@pytest.fixture(scope="module")
def files(model: ModelPaths) -> ModelFiles:
    return ModelFiles.open(model)


def sound(path: Path, seconds: float) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, round(seconds * 8000)), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def fitted(files: ModelFiles, folder: Path, picture: tuple[int, int] | None = None, **fields: Any) -> FittedRequest:
    if picture is not None:
        Image.new("RGB", picture).save(folder / "p.png")
        fields["image"] = folder / "p.png"
    fields.setdefault("audio", sound(folder / "s.wav", 1.0))
    return fit_request(GenerationRequest(prompt="p", output_path=folder / "v.mp4", **fields), files, [])


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        (None, (768, 512)),
        ((1920, 1080), (768, 512)),
        ((1080, 1920), (512, 768)),
        ((900, 1000), (512, 512)),
        ((64, 64), (512, 512)),
    ],
)
def test_the_size_follows_the_picture(
    files: ModelFiles, tmp_path: Path, picture: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    made = fitted(files, tmp_path, picture, image_crf=0)
    assert (made.shape.width, made.shape.height) == (made.request.width, made.request.height) == size
    pixels = {scale: tensor for shown in made.pictures for scale, tensor in shown.pixels.items()}
    assert {scale: tensor.shape[-2:] for scale, tensor in pixels.items()} == (
        {scale: (size[1] // scale, size[0] // scale) for scale in (2, 1)} if picture else {}
    )


def test_one_side_that_is_given_leaves_the_other_as_usual(files: ModelFiles, tmp_path: Path) -> None:
    made = fitted(files, tmp_path, (100, 200), width=256, image_crf=0)
    assert (made.shape.width, made.shape.height) == (256, 512)


def test_a_crop_is_said(files: ModelFiles, tmp_path: Path) -> None:
    made = fitted(files, tmp_path, (500, 1000), width=512, height=512, image_crf=0)
    assert made.notices == (
        "The picture, 500x1000, is cropped to the shape of the video, 512x512: the middle 50% of its height are seen.",
    )
    assert fitted(files, tmp_path, (1000, 1010), image_crf=0).notices == ()


@pytest.mark.parametrize(("seconds", "frames"), [(2.98, 73), (10.7, 257), (10.9, 265)])
def test_lengths_are_rounded_up(files: ModelFiles, tmp_path: Path, seconds: float, frames: int) -> None:
    made = fitted(files, tmp_path, audio=sound(tmp_path / "a.wav", seconds))
    assert made.video.num_frames == frames
    assert made.notices == ()
