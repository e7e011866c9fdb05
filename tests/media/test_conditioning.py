"""The copy of the sound that the model hears: what each step does, and what it leaves alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest
from ltx_a2v.media.sound import conditioning
from ltx_a2v.media.sound.conditioning import (
    FLOOR_DB,
    MOST_GAIN_DB,
    USUAL_LUFS,
    add_noise_floor,
    high_pass,
    integrated_loudness,
    prepare_speech,
    soften_cuts,
)
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.puppet.examples import SPEECH

RATE = 16000


def tone(hertz: float, seconds: float = 3.0, rate: int = RATE) -> Tensor:
    """[2, N] at full scale."""
    return torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate).repeat(2, 1)


def spoken() -> Tensor:
    return load_audio(SPEECH, 0.0, 4.0).waveform


def db(waveform: Tensor) -> float:
    return 10 * math.log10(float(waveform.square().mean()))


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_loudness_is_that_of_bs1770(rate: int) -> None:
    """The standard's own example: a sine of 997 Hz at full scale in one channel reads -3.01."""
    one = tone(997, rate=rate) * torch.tensor([[1.0], [0.0]])
    assert integrated_loudness(one, rate) == pytest.approx(-3.01, abs=0.1)
    assert integrated_loudness(tone(997, rate=rate) * 0.1, rate) == pytest.approx(-20.0, abs=0.1)


def test_pauses_do_not_make_speech_quieter() -> None:
    with_pause = torch.cat([tone(997) * 0.1, torch.zeros(2, 5 * RATE), tone(997) * 0.1], dim=1)
    assert integrated_loudness(with_pause, RATE) == pytest.approx(-20.0, abs=0.5)


@pytest.mark.parametrize("gain", [-28, -10, 0, 9])
def test_speech_is_brought_to_the_usual_loudness(gain: float) -> None:
    prepared = prepare_speech((spoken() * 10 ** (gain / 20)).clamp(-1, 1), 22050)
    assert integrated_loudness(prepared, 22050) == pytest.approx(USUAL_LUFS, abs=0.3)


def test_noise_alone_does_not_become_speech() -> None:
    noise = torch.randn(2, 4 * RATE, generator=torch.Generator().manual_seed(1)) * 10 ** (-69 / 20)
    assert db(prepare_speech(noise, RATE)) < -69 + MOST_GAIN_DB + 1


def test_silence_stays_silence() -> None:
    silent = torch.zeros(2, 3 * RATE)
    assert prepare_speech(silent, RATE).equal(silent)


@pytest.mark.parametrize("samples", [0, 1, 2, 33, 500, 6400])
def test_very_short_sounds(samples: int) -> None:
    prepared = prepare_speech(torch.ones(2, samples) * 0.3, RATE)
    assert prepared.shape == (2, samples)
    assert prepared.isfinite().all()


def test_the_same_sound_gives_the_same_bits() -> None:
    assert prepare_speech(spoken(), 22050).equal(prepare_speech(spoken(), 22050))


def test_rumble_and_an_offset_go_and_a_voice_stays() -> None:
    assert db(high_pass(tone(25), RATE)[:, RATE:-RATE]) < db(tone(25)) - 18
    assert db(high_pass(torch.ones(2, 3 * RATE), RATE)[:, RATE:-RATE]) < -60
    assert db(high_pass(tone(200), RATE)) == pytest.approx(db(tone(200)), abs=0.2)


def test_the_high_pass_shifts_nothing() -> None:
    click = torch.zeros(2, RATE)
    click[:, 5000] = 1
    assert int(high_pass(click, RATE)[0].argmax()) == 5000


def test_pieces_join_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = high_pass(spoken(), 22050)
    monkeypatch.setattr(conditioning, "PIECE", 30_000)
    assert torch.allclose(high_pass(spoken(), 22050), whole, atol=1e-5)


def test_cuts_are_softened_and_the_rest_is_as_it_was() -> None:
    cut = torch.full((2, RATE), 0.5)
    cut[:, 4000:8000] = 0
    cut[:, 12000:12100] = 0  # part of a wave: shorter than a pause
    soft = soften_cuts(cut, RATE)
    steps = soft.diff(dim=1).abs()
    assert steps[:, :11000].max() < 0.02, "a click is left"
    fade = round(4 * conditioning.FADE * RATE) + 1
    for first, end in ((fade, 4000 - fade), (8000 + fade, RATE - fade)):
        assert soft[:, first:end].equal(cut[:, first:end])


def test_a_floor_only_under_what_has_none() -> None:
    clean = tone(200) * 0.3
    clean[:, RATE : 2 * RATE] = 0
    floored = add_noise_floor(clean, RATE)
    assert db(floored[:, RATE : 2 * RATE]) == pytest.approx(FLOOR_DB, abs=0.5)
    room = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert add_noise_floor(room, RATE).equal(room)


def test_only_the_conditioning_hears_it(pipeline: A2VPipeline, request_fields: dict[str, Any], tmp_path: Path) -> None:
    """Another video, the same sound in the file."""
    sounds, latents = [], []
    for preparation in ("auto", "off"):
        path, saved = tmp_path / f"{preparation}.mp4", tmp_path / f"{preparation}.safetensors"
        fields = {**request_fields, "output_path": path, "save_latents": saved, "speech_preparation": preparation}
        pipeline.run(GenerationRequest(**fields))
        sounds.append(load_audio(path, 0.0, 0.3).waveform)
        latents.append(saved.read_bytes())
    assert sounds[0].equal(sounds[1])
    assert latents[0] != latents[1]
