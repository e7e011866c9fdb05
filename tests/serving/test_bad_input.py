"""One table of mistakes, told at three entrances: each names the field in its own words and gives the same reason.

The same mistake is made on the command line (`generate`), over HTTP (`POST /generate`) and in Python. No model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from ltx_a2v import GenerationRequest, Guidance
from ltx_a2v.cli.flags import flag_name
from ltx_a2v.cli.main import main
from ltx_a2v.errors import InvalidRequest
from tests.serving.conftest import Server, data_url, wav


@dataclass(frozen=True)
class Mistake:
    """A value of a field that cannot be used, and the reason that all entrances give."""

    field: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field}={self.value!r}"[:40]

    @property
    def text(self) -> str:
        return str(self.value)


SMALL, LARGE, WHOLE, NUMBER = "is too small", "is too large", "is not a whole number", "is not a number"
GRID = "must be a multiple of 64 up to 4096; use"
FRAMES = "must be 8k+1, or 'auto'; use"

MISTAKES = [
    Mistake("width", 0, f"{GRID} 64"),
    Mistake("width", -64, f"{GRID} 64"),
    Mistake("width", 700, f"{GRID} 640 or 704"),
    Mistake("width", 100_000, f"{GRID} 4096"),
    Mistake("width", "wide", WHOLE),
    Mistake("width", 64.5, WHOLE),
    Mistake("height", 1, f"{GRID} 64"),
    Mistake("height", 513, f"{GRID} 512 or 576"),
    Mistake("height", 4097, f"{GRID} 4096"),
    Mistake("height", "tall", WHOLE),
    Mistake("num_frames", 0, f"{FRAMES} 1"),
    Mistake("num_frames", -5, f"{FRAMES} 1"),
    Mistake("num_frames", 18, f"{FRAMES} 17 or 25"),
    Mistake("num_frames", 5000, f"{FRAMES} 4993 or 5001"),
    Mistake("num_frames", "many", WHOLE),
    Mistake("num_frames", 9.5, WHOLE),
    Mistake("frame_rate", 0, f"{SMALL}: it must be at least 1"),
    Mistake("frame_rate", -24, SMALL),
    Mistake("frame_rate", 121, f"{LARGE}: it must be at most 120"),
    Mistake("frame_rate", "fast", NUMBER),
    Mistake("audio_start_time", -1, f"{SMALL}: it must be at least 0"),
    Mistake("audio_start_time", 1e300, LARGE),
    Mistake("audio_start_time", "late", NUMBER),
    Mistake("image_strength", -0.1, SMALL),
    Mistake("image_strength", 1.5, f"{LARGE}: it must be at most 1"),
    Mistake("image_strength", "strong", NUMBER),
    Mistake("image_crf", -1, SMALL),
    Mistake("image_crf", 52, f"{LARGE}: it must be at most 51"),
    Mistake("image_crf", "soft", WHOLE),
    Mistake("image_crf", 2.5, WHOLE),
    Mistake("num_inference_steps", 0, f"{SMALL}: it must be at least 1"),
    Mistake("num_inference_steps", -3, SMALL),
    Mistake("num_inference_steps", 1001, f"{LARGE}: it must be at most 1000"),
    Mistake("num_inference_steps", "many", WHOLE),
    Mistake("num_inference_steps", 1.5, WHOLE),
    Mistake("seed", -1, SMALL),
    Mistake("seed", 2**63, LARGE),
    Mistake("seed", "random", WHOLE),
    Mistake("seed", 0.5, WHOLE),
    Mistake("guidance.cfg", -1, SMALL),
    Mistake("guidance.cfg", 101, f"{LARGE}: it must be at most 100"),
    Mistake("guidance.cfg", "high", NUMBER),
    Mistake("guidance.stg", -0.5, SMALL),
    Mistake("guidance.stg", 1000, LARGE),
    Mistake("guidance.stg", "on", NUMBER),
    Mistake("guidance.modality", -1, SMALL),
    Mistake("guidance.modality", 101, LARGE),
    Mistake("guidance.modality", "close", NUMBER),
    Mistake("guidance.rescale", -0.1, SMALL),
    Mistake("guidance.rescale", 1.1, f"{LARGE}: it must be at most 1"),
    Mistake("guidance.rescale", "half", NUMBER),
    Mistake("guidance.stg_blocks", [-1], "must be block numbers, which start at 0"),
    Mistake("guidance.stg_blocks", ["last"], WHOLE),
]


def test_there_are_enough() -> None:
    assert len({(mistake.field, mistake.text) for mistake in MISTAKES}) >= 50


def check(message: str, name: str, mistake: Mistake) -> None:
    assert message.startswith(f"{name} "), message
    assert mistake.reason in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "⟨" not in message


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_in_python(mistake: Mistake) -> None:
    outer, _, inner = mistake.field.rpartition(".")
    made = Guidance if outer else partial(GenerationRequest, prompt="p", audio="a.wav")
    with pytest.raises(InvalidRequest) as error:
        made(**{inner: mistake.value})
    check(str(error.value), mistake.field, mistake)
    assert "--" not in str(error.value)
    assert error.value.field == mistake.field


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_on_the_command_line(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    flag = flag_name(mistake.field)
    value = [f"{flag}={mistake.text}"]
    if isinstance(mistake.value, list):
        value = [flag, *map(str, mistake.value)]
    assert main(["generate", "--prompt", "p", "--audio", "a.wav", *value]) == 2
    program, _, message = capsys.readouterr().err.rstrip("\n").partition(": ")
    assert program == "ltx-a2v"
    check(message, flag, mistake)
    if "_" in mistake.field:
        assert mistake.field not in message


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_over_http(mistake: Mistake, server: Server) -> None:
    outer, _, inner = mistake.field.rpartition(".")
    given = {outer: {inner: mistake.value}} if outer else {inner: mistake.value}
    reply = server.client.post("/generate", json={"prompt": "p", "audio": data_url(wav()), **given})
    assert reply.status_code == 422, reply.text
    check(reply.json()["error"], mistake.field, mistake)
    assert "--" not in reply.json()["error"]
    assert reply.json()["param"] == mistake.field


def test_unknown_and_missing_fields(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequest, match="Unknown field 'widht'; did you mean 'width'"):
        GenerationRequest(prompt="p", audio="a.wav", widht=64)
    with pytest.raises(SystemExit):
        main(["generate", "--prompt", "p", "--audio", "a.wav", "--widht", "64"])
    assert "there is no flag --widht; did you mean --width?" in capsys.readouterr().err
    reply = server.client.post("/generate", json={"prompt": "p", "audio": data_url(wav()), "widht": 64})
    assert reply.status_code == 422
    assert "'widht'" in reply.json()["error"]

    with pytest.raises(InvalidRequest, match="audio is missing"):
        GenerationRequest(prompt="p")
    assert main(["generate", "--prompt", "p"]) == 2
    assert "required: --audio" in capsys.readouterr().err
    reply = server.client.post("/generate", json={"prompt": "p"})
    assert reply.status_code == 422
    assert "audio" in reply.json()["error"]
