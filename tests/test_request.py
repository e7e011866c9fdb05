"""Requests: fitted to the grid, refused in one sentence that says what would do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx_a2v import GenerationRequest, Guidance
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.request import fit_num_frames, nearest_num_frames, nearest_sizes


def make(**fields: object) -> GenerationRequest:
    return GenerationRequest(prompt="p", audio="a.wav", **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 700}, "width 700 must be a multiple of 64 up to 4096; use 640 or 704."),
        ({"height": 0}, "use 64"),
        ({"width": 100_000}, "use 4096"),
        ({"num_frames": 98}, "use 97 or 105"),
        ({"num_frames": -5}, "use 1"),
        ({"num_frames": 2}, "use 1 or 9"),
        ({"num_frames": "many"}, "num_frames 'many' is not a whole number or 'auto'."),
        ({"num_frames": True}, "num_frames True"),
        ({"width": "abc"}, "width 'abc' is not a whole number or 'auto'."),
        ({"width": 64.5}, "width 64.5 is not a whole number or 'auto'."),
        ({"frame_rate": 0}, "frame_rate 0 is too small: it must be at least 1."),
        ({"frame_rate": float("nan")}, "frame_rate nan is not a finite number."),
        ({"frame_rate": "fast"}, "frame_rate 'fast' is not a number."),
        ({"audio_start_time": 1e300}, "audio_start_time 1e+300 is too large: it must be at most 604800."),
        ({"negative_prompt": "a\udcff"}, "negative_prompt 'a\\udcff' is not valid UTF-8."),
        ({"negative_prompt": 3}, "negative_prompt 3 is not text."),
        ({"image": "a\0.png"}, "NUL"),
        ({"guidance": 3}, "guidance 3 is not a Guidance."),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"image_strength": 1.5}, "image_strength 1.5"),
        ({"image_crf": 52}, "image_crf 52"),
        ({"audio_start_time": -1}, "audio_start_time -1"),
        ({"seed": -1}, "seed -1"),
        ({"colour": "red"}, "Unknown field 'colour'"),
    ],
)
def test_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        make(**fields)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_nested() -> None:
    with pytest.raises(InvalidRequest, match="audio is missing"):
        GenerationRequest(prompt="p")
    with pytest.raises(InvalidRequest, match=r"guidance\.stg_blocks"):
        Guidance(stg_blocks=(-1,))
    with pytest.raises(InvalidRequest, match=r"guidance.stg_blocks 'x' is not a whole number\."):
        Guidance(stg_blocks=("x",))
    with pytest.raises(InvalidRequest, match=r"guidance\.cfg"):
        Guidance(cfg="high")


def test_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        make().width = 64  # type: ignore[misc]


@given(st.integers(-10_000, 10_000))
def test_whatever_is_proposed_is_accepted(number: int) -> None:
    for size in nearest_sizes(number):
        assert make(width=size).width == size
    for frames in nearest_num_frames(number):
        assert make(num_frames=frames).num_frames == frames


@given(st.floats(0, 30), st.sampled_from([23.976, 24.0, 25.0, 30.0, 60.0]))
def test_auto_frames_have_room_for_the_audio(seconds: float, rate: float) -> None:
    frames = fit_num_frames(seconds, rate)
    assert frames % 8 == 1
    assert frames >= 9
    assert frames >= seconds * rate - 0.01
    if frames > 9:
        assert frames - 8 < seconds * rate


def test_a_file_cut_to_the_sample_counts_as_whole() -> None:
    assert fit_num_frames(178237 / 44100, 24.0) == 97
