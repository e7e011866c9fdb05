"""The measure of sync, on drawn mouths whose timing is known."""

import math

import pytest
import torch

from ltx_a2v.media.sync import loudness, measure_sync, mouth_opening

RATE, FRAMES = 16000, 96


def speech() -> torch.Tensor:
    """Four seconds of a tone that swells and rests."""
    time = torch.arange(int(RATE * FRAMES / 24)) / RATE
    swell = (torch.sin(2 * math.pi * 1.3 * time) * torch.sin(2 * math.pi * 0.31 * time)).clamp(min=0)
    return 0.4 * swell * torch.sin(2 * math.pi * 180 * time)


def mouth(opening: torch.Tensor) -> torch.Tensor:
    """A light face with a dark slit as high as `opening` says."""
    frames = torch.full((len(opening), 128, 128, 3), 200, dtype=torch.uint8)
    for frame, height in zip(frames, (opening * 30).round().int().tolist(), strict=True):
        frame[84 : 84 + height, 48:80] = 20
    return frames


@pytest.mark.parametrize("late", [-2, 0, 1, 2])
def test_a_mouth_that_follows_is_found_at_its_lag(late: int) -> None:
    sound = speech()
    frames = mouth(loudness(sound, RATE, FRAMES)).roll(late, 0)
    found = measure_sync(frames, sound, RATE)
    assert found.lag == late
    assert found.correlation > 0.98


def test_three_frames_late_is_not_taken_for_sync() -> None:
    sound = speech()
    frames = mouth(loudness(sound, RATE, FRAMES)).roll(3, 0)
    assert measure_sync(frames, sound, RATE).lag == 2
    assert measure_sync(frames, sound, RATE, max_lag=4).lag == 3


def test_closed_in_silence() -> None:
    sound = speech()
    heard = loudness(sound, RATE, FRAMES)
    assert measure_sync(mouth(heard), sound, RATE).closed_in_silence == 1
    assert measure_sync(mouth(1 - heard), sound, RATE).closed_in_silence == 0
    assert measure_sync(mouth(heard), torch.ones_like(sound), RATE).closed_in_silence is None


def test_a_mouth_that_rests_has_no_correlation() -> None:
    still = mouth(torch.zeros(FRAMES))
    found = measure_sync(still, speech(), RATE)
    assert found.correlation == 0
    assert found.movement == 0
    assert float(mouth_opening(still).max()) == 0


def test_stereo_and_rate_do_not_matter() -> None:
    sound = speech()
    stereo = torch.stack([sound, sound]).repeat_interleave(3, dim=1)
    assert torch.allclose(loudness(stereo, 3 * RATE, FRAMES), loudness(sound, RATE, FRAMES), atol=0.02)
