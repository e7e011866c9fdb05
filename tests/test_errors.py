"""One mistake, worded by each front; an error crosses a process boundary and stays what it was."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from ltx_a2v import GenerationRequest, Guidance
from ltx_a2v.cli.main import main
from ltx_a2v.errors import (
    SMALLER_REQUEST,
    A2VError,
    BudgetTooSmall,
    InvalidRequest,
    MissingExtra,
    TooLarge,
    from_json,
    named,
    worded,
)

NEEDED: dict[str, Any] = {"prompt": "p", "audio": "a.wav"}


@pytest.mark.parametrize(
    ("fields", "flags", "python", "command_line"),
    [
        (
            {"num_frames": 98},
            ["--num-frames", "98"],
            "num_frames 98 must be 8k+1, or 'auto'; use 97 or 105.",
            "--num-frames 98 must be 8k+1, or 'auto'; use 97 or 105.",
        ),
        (
            {"frame_rate": 500},
            ["--frame-rate", "500"],
            "frame_rate 500 is too large: it must be at most 120.",
            "--frame-rate 500 is too large: it must be at most 120.",
        ),
        (
            {"guidance": {"cfg": "high"}},
            ["--video-cfg-guidance-scale", "high"],
            "guidance.cfg 'high' is not a number.",
            "--video-cfg-guidance-scale 'high' is not a number.",
        ),
    ],
)
def test_one_mistake_by_python_and_command_line(
    capsys: pytest.CaptureFixture[str], fields: dict[str, Any], flags: list[str], python: str, command_line: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        GenerationRequest(**NEEDED, **fields)
    assert str(error.value) == python
    assert main(["generate", "--prompt", "p", "--audio", "a.wav", *flags]) == 2
    assert capsys.readouterr().err == f"ltx-a2v: {command_line}\n"


def test_the_parts_of_a_refusal() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Guidance(cfg=500)
    error = caught.value
    assert (error.field, error.value, error.reason) == ("guidance.cfg", 500, "is too large: it must be at most 100")


def test_advice_is_worded_by_the_front() -> None:
    error = BudgetTooSmall(f"5 GiB are too little; {SMALLER_REQUEST}.")
    assert str(error) == "5 GiB are too little; reduce width, height or num_frames."
    assert error.worded(str.upper) == "5 GiB are too little; reduce WIDTH, HEIGHT or NUM_FRAMES."
    assert worded(f"{{width}} and <width> stay, {named('width')} does not", str.upper).endswith("stay, WIDTH does not")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("width", 700, "must be a multiple of 64; use 640 or 704"),
        InvalidRequest("audio", reason="is missing"),
        InvalidRequest("image", Path("a.png"), "is not a path"),
        BudgetTooSmall(f"Reduce {named('width')}."),
        MissingExtra("The mode int8-quanto", "quanto"),
        TooLarge("Too many pixels.", "image_too_large"),
        A2VError("Surprise."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_a_process_boundary(error: A2VError) -> None:
    for there in (from_json(json.loads(json.dumps(error.as_json()))), pickle.loads(pickle.dumps(error))):
        assert type(there) is type(error)
        assert (str(there), there.template, there.code) == (str(error), error.template, error.code)
        assert there.as_json() == error.as_json()


def test_long_values_are_cut() -> None:
    with pytest.raises(InvalidRequest) as error:
        GenerationRequest(**NEEDED, width="9" * 10_000)
    assert len(str(error.value)) < 200
