"""Does the mouth follow the sound? Measured from pixels and samples of the finished file."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.media.check import check_video
from ltx_a2v.media.sync import measure_sync, mouth_opening
from ltx_a2v.puppet.examples import SPEECH
from ltx_a2v.settings.loading import LoadOptions
from tests.puppet.conftest import Film, FilmIt, short_request

LIPS = (-0.3, 0.3, 0.2, 0.7)
"""Without the hair next to them, which is dark too: openings of two films are compared."""
MODES = ["int8", "fp8-cast", "fp8-scaled", "fp8-scaled-mm", "int8-quanto", "fp8-quanto", "int4-quanto"]


def test_the_mouth_follows_the_sound(speaking: Film) -> None:
    sync = speaking.sync()
    assert sync.correlation >= 0.8
    assert abs(sync.lag) <= 1, "sound and picture are shifted"
    assert sync.movement > 0.02, "the mouth hardly moves"


@pytest.mark.parametrize("frames", [-3, 3])
def test_a_shift_of_three_frames_is_seen(speaking: Film, frames: int) -> None:
    lag = speaking.sync(max_lag=5).lag
    assert speaking.sync(frames, max_lag=5).lag == lag - frames
    shifted = speaking.sync(frames)
    assert abs(shifted.lag) > 1 or shifted.correlation < 0.8, "the test above would not have noticed"


def test_another_sound_moves_the_mouth_otherwise_and_leaves_the_face(speaking: Film, film: FilmIt) -> None:
    other = film(audio_start_time=2.6)
    own = other.sync()
    assert own.correlation >= 0.8
    swapped = measure_sync(other.frames, speaking.waveform, speaking.sample_rate, max_lag=0)
    assert swapped.correlation < own.correlation - 0.3, "the mouth does not depend on the sound"
    assert psnr_outside_the_mouth(other.frames[-1], speaking.frames[0]) >= 20, "another face"


def test_silence_keeps_it_closed(speaking: Film, film: FilmIt, tmp_path: Path) -> None:
    opening = mouth_opening(film(audio=silence(tmp_path / "silence.wav")).frames, LIPS)
    spoken = mouth_opening(speaking.frames, LIPS)
    closed = opening - spoken.quantile(0.02) < 0.15 * (spoken.max() - spoken.quantile(0.02))
    assert closed.float().mean() >= 0.95


def test_landmarks_see_the_same_as_the_puppets_own_measure(speaking: Film) -> None:
    found = check_video(speaking.path, "real").whole
    assert found.correlation is not None
    assert found.correlation >= 0.8
    assert found.lag_frames in (-1, 0, 1)


def test_the_report_has_the_sync_where_it_is_asked_for(puppet: A2VPipeline, tmp_path: Path) -> None:
    asked = {"num_frames": 33, "num_inference_steps": 2, "output_path": tmp_path / "v.mp4"}
    report = puppet.run(short_request(**asked, check_sync=True)).as_json()
    assert report["sync"] == check_video(tmp_path / "v.mp4", "drawn").as_json()
    assert report["notices"] == []
    too_short = puppet.run(short_request(**{**asked, "num_frames": 9}, check_sync=True)).as_json()
    assert "sync" not in too_short
    assert "The sync was not measured" in too_short["notices"][0]
    assert "less than a second" in too_short["notices"][0]


@pytest.mark.slow
def test_quality_fast_moves_the_mouth(film: FilmIt) -> None:
    assert film(quality="fast").sync().movement > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_speaks_as_well(speaking: Film, film: FilmIt, puppet_model: ModelPaths, mode: str) -> None:
    quantized = A2VPipeline.open(puppet_model, device="cpu", options=LoadOptions(mode))
    sync = film(quantized).sync()
    assert abs(sync.lag) <= 1
    assert sync.correlation >= speaking.sync().correlation - 0.05


@pytest.mark.slow
def test_streamed_within_the_smallest_budget_the_same_bytes(
    speaking: Film, film: FilmIt, puppet: A2VPipeline, puppet_model: ModelPaths
) -> None:
    smallest = puppet.plan(short_request(), Budget("unlimited")).smallest
    options = LoadOptions(budget=Budget(f"{smallest}B"), host_memory=0)
    streamed = A2VPipeline.open(puppet_model, device="cpu", options=options)
    assert film(streamed).path.read_bytes() == speaking.path.read_bytes()


def psnr_outside_the_mouth(frame: Tensor, other: Tensor) -> float:
    """In dB, of two frames [256, 256, 3]."""
    error = (frame.float() - other.float()).square()
    error[148:230, 67:189] = torch.nan
    return float(10 * torch.log10(255**2 / error.nanmean().clamp(min=1e-3)))


def silence(path: Path) -> Path:
    with wave.open(str(SPEECH)) as speech, wave.open(str(path), "wb") as file:
        file.setparams(speech.getparams())
        file.writeframes(bytes(speech.getnframes() * speech.getsampwidth()))
    return path
