"""`check_video` on faces whose timing is known: drawn mouths, and the miniature's, which the landmarks find too."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from ltx_a2v.errors import A2VError, InvalidInput, MissingExtra
from ltx_a2v.media.check import check_video
from ltx_a2v.media.faces import landmarks
from ltx_a2v.media.sound.prepare import AudioClip
from ltx_a2v.media.sync import loudness
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.puppet.examples import FACE, SPEECH
from tests.media.test_sync import FRAMES, RATE, mouth, speech


def film(path: Path, frames: Tensor, sound: Tensor | None = None) -> Path:
    waveform = speech() if sound is None else sound
    clip = AudioClip(waveform[: round(len(frames) / 24 * RATE)].repeat(2, 1), RATE, 0.0)
    with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], frame_rate=24, audio=clip) as writer:
        writer.write(frames)
    return path


def follows(late: int = 0) -> Tensor:
    return mouth(loudness(speech(), RATE, FRAMES)).roll(late, 0)


def test_a_mouth_that_follows(tmp_path: Path) -> None:
    found = check_video(film(tmp_path / "v.mp4", follows()), "drawn", window=2.0)
    assert found.whole.lag_frames == 0
    assert found.whole.correlation is not None
    assert found.by_chance is not None
    assert found.whole.correlation > 0.95 > found.by_chance
    assert found.whole.closed_in_silence == 1
    assert [(part.start, part.end) for part in found.parts] == [(0, 2), (2, 4)]
    assert len(found.series()["opening"]) == found.as_json()["frames"] == FRAMES


@pytest.mark.parametrize("late", [-3, 4])
def test_the_lag_is_found(tmp_path: Path, late: int) -> None:
    assert check_video(film(tmp_path / "v.mp4", follows(late)), "drawn").whole.lag_frames == late


def test_a_mouth_that_stops_half_way_is_seen_in_its_part(tmp_path: Path) -> None:
    frames = follows()
    frames[48:] = frames[0]
    parts = check_video(film(tmp_path / "v.mp4", frames), "drawn", window=2.0).parts
    assert parts[0].correlation is not None
    assert parts[0].correlation > 0.9
    assert parts[1].correlation is None, "a still mouth has no correlation"


def test_quiet_sound_is_measured_as_well(tmp_path: Path) -> None:
    found = check_video(film(tmp_path / "v.mp4", follows(), speech() * 0.02), "drawn")
    assert found.whole.correlation is not None
    assert found.whole.correlation > 0.9


def test_a_short_rest_belongs_to_the_part_before_it(tmp_path: Path) -> None:
    parts = check_video(film(tmp_path / "v.mp4", follows()), "drawn", window=3.0).parts
    assert [(part.start, part.end) for part in parts] == [(0, 4)]


def test_landmarks_find_a_face_wherever_it_is_and_nothing_in_noise() -> None:
    from PIL import Image

    face = Image.open(FACE).convert("RGB").resize((256, 256))
    for x, y, angle in ((0, 0, 0), (200, 120, 0), (100, 60, 25)):
        picture = Image.new("RGB", (640, 480), "grey")
        picture.paste(face.rotate(angle, fillcolor="grey"), (x, y))
        points = landmarks.FaceMeter().landmarks(picture)
        assert points is not None
        centre = points[:, :2].mean(axis=0)
        assert abs(centre - np.array([x + 128, y + 140])).max() < 40
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    assert np.isnan(landmarks.FaceMeter().opening(noise))


def picture(path: Path) -> Path:
    path.write_bytes(FACE.read_bytes())
    return path


def mute(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode())
    return path


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    grey = torch.full((30, 64, 64, 3), 128, dtype=torch.uint8)
    for path, face, sentence in (
        (tmp_path / "none.mp4", "real", "There is no video"),
        (tmp_path, "real", "is a folder"),
        (text, "real", "cannot be read as a video"),
        (SPEECH, "real", "holds no pictures, only sound"),
        (picture(tmp_path / "face.png"), "real", "is a picture, not a video"),
        (mute(tmp_path / "mute.mp4"), "real", "has no sound"),
        (film(tmp_path / "short.mp4", follows()[:20]), "drawn", "less than a second"),
        (film(tmp_path / "grey.mp4", grey), "real", "No face was found"),
        (film(tmp_path / "grey2.mp4", grey), "drawn", "No mouth was found"),
    ):
        with pytest.raises(InvalidInput, match=sentence) as refused:
            check_video(path, face)  # type: ignore[arg-type]
        assert str(refused.value).count(". ") == 0


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtra, match=r"EXTRAS=sync` in a checkout"):
        check_video(film(tmp_path / "v.mp4", follows()), "real")
    assert issubclass(MissingExtra, A2VError)
