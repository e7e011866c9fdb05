"""Long videos: how they are cut into windows, what a window gets from the one before, and how work goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.errors import A2VError, InvalidAudio, InvalidOutput, InvalidRequest
from ltx_a2v.events import Done, Event, GenerationResult, WindowStarted
from ltx_a2v.fitting import ANCHOR_FRAME, shown_in
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.media.join import join
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.prompts.templates import styled
from ltx_a2v.settings.loading import LoadOptions, PromptEnhancer
from ltx_a2v.windows import CROSSFADE, GUARD, Cut, HandedOn, plan_windows, statistics_of
from ltx_a2v.work_dir import WorkDir
from tests.conftest import ROOT

SPEECH = ROOT / "examples" / "speech.wav"
FRAMES = 49
LONG = {"num_frames": FRAMES, "window_frames": 25, "window_overlap": 9, "num_inference_steps": 1}
"""Three windows."""


@given(
    total=st.integers(1, 1500).map(lambda n: 8 * n + 1),
    overlap=st.sampled_from([9, 17, 25]),
    more=st.integers(1, 30),
    guard=st.sampled_from([0, GUARD]),
    seed=st.none() | st.integers(0, 100),
)
def test_windows_cover_the_video_once(total: int, overlap: int, more: int, guard: int, seed: int | None) -> None:
    longest = overlap + 8 * more
    loudness = None if seed is None else torch.rand(total, generator=torch.Generator().manual_seed(seed)).tolist()
    windows = plan_windows(total, longest, overlap, guard, loudness)
    assert windows[0].written_from == 0
    assert windows[-1].written_to == total <= windows[-1].start + windows[-1].frames - guard
    for window, following in pairwise(windows):
        assert window.written_to == following.written_from < following.written_to
        assert window.hands_on == range(following.start, following.start + overlap)
        assert window.hands_on.stop <= window.start + window.frames - guard  # guard frames are never handed on
        assert following.written_from == following.start + overlap - CROSSFADE
    assert len({window.frames for window in windows}) == 1
    assert all(window.start % 8 == 0 and window.frames % 8 == 1 for window in windows)
    assert windows[0].frames <= longest + guard


def test_a_window_begins_in_a_pause() -> None:
    loudness = [0.8] * 300
    quiet = 129  # the crossfade into a window that begins at 120
    loudness[quiet : quiet + CROSSFADE] = [0.0] * CROSSFADE
    assert [window.start for window in plan_windows(257, 201, 17, 8, loudness)] == [0, 120]
    assert [window.start for window in plan_windows(257, 201, 17, 8, None)] == [0, 120]
    assert [window.start for window in plan_windows(257, 201, 17, 8, loudness[24:])] == [0, 96]


def test_pieces_are_cut_into_what_is_faded_written_and_handed_on() -> None:
    _, window, _ = plan_windows(FRAMES, 25, 9, 0)
    frames = torch.arange(window.start, window.start + window.frames).view(1, 1, -1, 1, 1)
    cut, found = Cut(window), ([], [], [])  # type: tuple[Cut, tuple[list[int], list[int], list[int]]]
    for piece in frames.split(5, dim=2):
        fading, *parts = cut.parts(piece)
        assert parts[0].flatten().tolist() == [window.start + frame for frame in fading]
        for known, part in zip(found, parts, strict=True):
            known += part.flatten().tolist()
    faded, plain, handed = found
    assert faded == list(range(window.written_from, window.written_from + CROSSFADE))
    assert faded + plain == list(range(window.written_from, window.written_to))
    assert handed == list(window.hands_on)
    old, new = (torch.full((CROSSFADE, 1, 1, 3), value, dtype=torch.uint8) for value in (0, 90))
    begin = window.written_from - window.start
    assert cut.fade(range(begin, begin + CROSSFADE), old, new)[:, 0, 0, 0].tolist() == [10 * n for n in range(1, 9)]


def test_each_window_is_shown_its_pictures_and_the_first() -> None:
    first, second, third = plan_windows(FRAMES, 25, 9, 0)
    pictures = [0, second.start + 12, FRAMES - 1]
    assert shown_in(first, pictures) == [(0, 0)]
    assert shown_in(second, pictures) == [(0, ANCHOR_FRAME), (1, 12)]
    assert shown_in(third, pictures)[0] == (0, ANCHOR_FRAME)
    assert shown_in(third, pictures)[-1] == (2, FRAMES - 1 - third.start)


def made(events: Iterator[Event]) -> tuple[GenerationResult, list[WindowStarted]]:
    seen = list(events)
    assert isinstance(seen[-1], Done)
    return seen[-1].result, [event for event in seen if isinstance(event, WindowStarted)]


def frames_and_samples(video: Path) -> tuple[list[Any], int]:
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(video) as container:
        return frames, sum(frame.samples for frame in container.decode(audio=0))


@pytest.fixture(scope="module")
def once(pipeline: A2VPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long video that was never interrupted."""
    output = tmp_path_factory.mktemp("long") / "once.mp4"
    result, windows = made(pipeline.generate(long_request(output)))
    assert [(w.window, w.windows, w.is_made) for w in windows] == [(n, 3, False) for n in (1, 2, 3)]
    assert (result.num_frames, result.details["windows"]) == (FRAMES, 3)
    return output


def long_request(output: Path, **fields: Any) -> GenerationRequest:
    image = ROOT / "examples" / "robot.png"
    small = {"width": 128, "height": 64, "prompt": "It speaks.", "image": image, "audio": SPEECH}
    return GenerationRequest(**{**small, **LONG, "output_path": output, **fields})


def test_the_video_has_all_frames_and_the_sound_as_it_was(once: Path) -> None:
    frames, samples = frames_and_samples(once)
    assert len(frames) == FRAMES
    clip = load_audio(SPEECH, 0, FRAMES / 24)
    assert 0 <= samples - clip.waveform.shape[1] < 2 * 1024  # AAC's own padding
    assert sorted(path.name for path in once.parent.iterdir()) == ["once.mp4"]


def test_work_that_was_stopped_goes_on_and_gives_the_same_bytes(
    pipeline: A2VPipeline, once: Path, tmp_path: Path
) -> None:
    request = long_request(tmp_path / "video.mp4", work_dir=tmp_path / "work")
    with closing(pipeline.generate(request)) as events:
        for event in events:
            if isinstance(event, WindowStarted) and event.window == 2:
                break
    assert not request.output_path.exists()
    assert (tmp_path / "work" / "window-000.mp4").exists()
    (tmp_path / "work" / "window-001.mp4.1.part").write_bytes(b"of a run that was killed")
    _, windows = made(pipeline.generate(request))
    assert [window.is_made for window in windows] == [True, False, False]
    assert request.output_path.read_bytes() == once.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["video.mp4"]  # what was kept is no longer needed


def test_the_enhancer_s_words_are_kept_for_the_windows_that_follow(
    model: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["A woman speaks.", "Somebody else speaks."])
    monkeypatch.setattr("ltx_a2v.prompts.wording.enhance", lambda *_: next(answers))
    options = LoadOptions("none", prompt_cache=False, prompt_enhancer=PromptEnhancer("http://127.0.0.1:1/v1", "m"))
    pipeline = A2VPipeline.open(model, device="cpu", options=options)
    fields = {"enhance_prompt": True, "prompt_style": "portrait", "work_dir": tmp_path / "work"}
    request = long_request(tmp_path / "video.mp4", **fields)
    with closing(pipeline.generate(request)) as events:
        next(event for event in events if isinstance(event, WindowStarted) and event.window == 2)
    result, windows = made(pipeline.generate(request))
    assert [window.is_made for window in windows] == [True, False, False]
    assert result.details["prompt"] == styled("A woman speaks.", "portrait")
    assert next(answers) == "Somebody else speaks.", "it was not asked again"


def test_finished_windows_can_be_joined_before_the_others_are_made(pipeline: A2VPipeline, tmp_path: Path) -> None:
    request = long_request(tmp_path / "video.mp4", work_dir=tmp_path / "work")
    with closing(pipeline.generate(request)) as events:
        next(event for event in events if isinstance(event, WindowStarted) and event.window == 3)
    windows = pipeline._fit(request).windows[:2]
    segments = sorted((tmp_path / "work").glob("window-*.mp4"))
    join(segments, tmp_path / "part.mp4", 24.0, load_audio(SPEECH, 0, FRAMES / 24))
    frames, samples = frames_and_samples(tmp_path / "part.mp4")
    assert len(frames) == windows[-1].written_to < FRAMES
    heard = load_audio(SPEECH, 0, len(frames) / 24).waveform.shape[1]
    assert 0 <= samples - heard < 2 * 1024  # the sound up to there


def test_a_damaged_window_is_made_again(pipeline: A2VPipeline, once: Path, tmp_path: Path) -> None:
    request = long_request(tmp_path / "video.mp4", work_dir=tmp_path / "work")
    with closing(pipeline.generate(request)) as events:
        next(event for event in events if isinstance(event, WindowStarted) and event.window == 2)
    segment = tmp_path / "work" / "window-000.mp4"
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    _, windows = made(pipeline.generate(request))
    assert [window.is_made for window in windows] == [False] * 3
    assert request.output_path.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("damaged", ["window-000.mp4", "window-000.safetensors"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_windows_that_are_damaged_are_not_finished(tmp_path: Path, damaged: str, left: float) -> None:
    window = plan_windows(FRAMES, 25, 9, 0)[0]
    work = WorkDir(tmp_path, "a video", "It speaks.")
    with VideoWriter(work.segment(window), width=64, height=64, frame_rate=24, audio=None) as writer:
        writer.write(torch.zeros(window.writes, 64, 64, 3, dtype=torch.uint8))
    assert work.finished(window) is None
    handed_on = HandedOn(torch.zeros(9, 64, 64, 3, dtype=torch.uint8), statistics_of(torch.rand(1, 4, 3, 2, 2)))
    work.finish(window, handed_on)
    known = WorkDir(tmp_path, "a video", "It speaks.").finished(window)
    assert known is not None
    assert torch.equal(known.colours.mean, handed_on.colours.mean)
    file = tmp_path / damaged
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * left)])
    assert work.finished(window) is None


def test_a_work_folder_of_another_video_is_refused(pipeline: A2VPipeline, tmp_path: Path) -> None:
    request = long_request(tmp_path / "video.mp4", work_dir=tmp_path / "work")
    with closing(pipeline.generate(request)) as events:
        next(event for event in events if isinstance(event, WindowStarted))
    with pytest.raises(InvalidRequest, match=r"work_dir .* holds windows of another request or model"):
        pipeline.run(request.model_copy(update={"seed": 7}))
    assert (tmp_path / "work" / "work.json").exists()


def test_two_processes_do_not_work_in_one_folder(pipeline: A2VPipeline, tmp_path: Path) -> None:
    request = long_request(tmp_path / "video.mp4", work_dir=tmp_path / "work")
    with closing(pipeline.generate(request)) as events:
        next(event for event in events if isinstance(event, WindowStarted))
        other = request.model_copy(update={"output_path": tmp_path / "other.mp4"})
        with pytest.raises(InvalidRequest, match=r"work_dir .* is in use by another process"):
            pipeline.run(other)


def test_a_work_folder_that_cannot_be_made(pipeline: A2VPipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidOutput, match=r"The work folder .* cannot be used"):
        pipeline.run(long_request(tmp_path / "video.mp4", work_dir=tmp_path / "file" / "work"))


def test_memory_does_not_grow_with_the_length(model: ModelPaths, tmp_path: Path) -> None:
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions("none", prompt_cache=False))
    request = long_request(tmp_path / "video.mp4")
    plan = pipeline.plan(request)
    longer = request.model_copy(update={"num_frames": 3001})
    assert pipeline.plan_for(longer).peak == pipeline.plan_for(request.model_copy(update={"num_frames": 57})).peak
    made(pipeline.generate(request, pipeline.plan(request, Budget(f"{plan.smallest}B"))))  # whose limit is kept


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_frames": 40}, "window_frames 40 must be 8k+1, from 9 to 257"),
        ({"window_frames": 265}, "window_frames 265 must be 8k+1, from 9 to 257"),
        ({"window_frames": 17, "window_overlap": 17}, "window_overlap 17 must be less than window_frames, 17"),
        ({"num_frames": 86_409}, "num_frames 86409 are 3600 s; a video may last 3600 s"),
    ],
)
def test_mistakes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(A2VError) as error:
        long_request(Path("video.mp4"), **fields)
    assert message in str(error.value)


def test_a_sound_that_is_too_long_is_refused(
    pipeline: A2VPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx_a2v.fitting.MAX_SECONDS", 1)
    with pytest.raises(InvalidAudio, match="is longer than 1 s, the longest video; give num_frames"):
        pipeline.run(long_request(tmp_path / "video.mp4", num_frames="auto"))


def test_latents_of_windows_are_not_saved(pipeline: A2VPipeline, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"save_latents .* is possible up to window_frames, 25 frames"):
        pipeline.run(long_request(tmp_path / "video.mp4", save_latents=tmp_path / "latents.safetensors"))


def test_guard_frames_are_made_and_cut(pipeline: A2VPipeline, tmp_path: Path) -> None:
    request = long_request(tmp_path / "a.mp4", num_frames=9)
    assert pipeline._fit(request).shape.num_frames == 9 + GUARD
    assert pipeline._fit(request.model_copy(update={"speech_preparation": "off"})).shape.num_frames == 9
    longest = {"num_frames": 257, "window_frames": 257}
    assert pipeline._fit(long_request(tmp_path / "a.mp4", **longest)).shape.num_frames == 257
    assert pipeline.run(request).num_frames == 9
    assert len(frames_and_samples(request.output_path)[0]) == 9
