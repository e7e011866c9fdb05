"""The library's front door: events in order, determinism, stopping, choices that depend on model and audio."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v import pipeline as pipeline_module
from ltx_a2v.errors import (
    InvalidAudio,
    InvalidImage,
    InvalidInput,
    InvalidOutput,
    InvalidRequest,
    NotFinite,
    OutOfMemory,
)
from ltx_a2v.events import PHASES, Done, Event, Notice, PhaseFinished, PhaseStarted, StepFinished
from ltx_a2v.phases import PhaseLog
from tests.conftest import ROOT


def silence(path: Path, seconds: float, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * int(seconds * rate)))
    return path


def test_events_tell_every_phase_and_step(pipeline: A2VPipeline, small_request: GenerationRequest) -> None:
    events = list(pipeline.generate(small_request))

    assert [e.phase for e in events if isinstance(e, PhaseStarted)] == list(PHASES)
    assert [e.phase for e in events if isinstance(e, PhaseFinished)] == list(PHASES)
    steps = [(e.phase, e.step, e.steps) for e in events if isinstance(e, StepFinished)]
    assert steps == [("stage_1", i, 2) for i in (1, 2)] + [("stage_2", i, 3) for i in (1, 2, 3)] + [("decode", 1, 1)]
    assert isinstance(events[-1], Done)
    assert events[-1].result.phases.keys() == set(PHASES)
    assert small_request.output_path.stat().st_size > 1000


def test_same_request_same_bytes_another_seed_others(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    def make(name: str, seed: int) -> bytes:
        fields = request_fields | {"output_path": tmp_path / name, "seed": seed}
        return pipeline.run(GenerationRequest(**fields)).output_path.read_bytes()

    first = make("1.mp4", 1)
    assert make("2.mp4", 1) == first
    assert make("3.mp4", 2) != first


@pytest.mark.parametrize("phase", PHASES)
def test_closing_in_any_phase_leaves_no_file(
    pipeline: A2VPipeline, small_request: GenerationRequest, phase: str
) -> None:
    events = pipeline.generate(small_request)
    next(e for e in events if isinstance(e, PhaseStarted | StepFinished) and e.phase == phase)
    events.close()

    assert list(small_request.output_path.parent.glob("video*")) == []
    assert not torch.is_inference_mode_enabled()


def test_auto_takes_the_frames_that_the_audio_needs(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    fields = request_fields | {"num_frames": "auto", "audio": silence(tmp_path / "a.wav", 0.8)}
    assert pipeline.run(GenerationRequest(**fields)).num_frames == 25  # 19.2 needed, 8k+1


def test_short_audio_is_padded_and_said(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    request = GenerationRequest(**request_fields | {"audio": silence(tmp_path / "a.wav", 0.2)})
    events = list(pipeline.generate(request))

    assert any(isinstance(e, Notice) and "silence" in e.message for e in events)
    assert any("0.17 s shorter" in notice for notice in events[-1].result.notices)


def test_long_prompts_are_cut_and_said(pipeline: A2VPipeline, request_fields: dict[str, object]) -> None:
    result = pipeline.run(GenerationRequest(**request_fields | {"prompt": "speak " * 300}))
    assert any("cut to 1024 tokens" in notice for notice in result.notices)


def test_picture_and_audio_matter(pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path) -> None:
    def make(**changes: object) -> bytes:
        return pipeline.run(GenerationRequest(**request_fields | changes)).output_path.read_bytes()

    videos = [make(), make(image=None), make(image_strength=0.5), make(audio_start_time=1.0), make(prompt="A dog.")]
    assert len(set(videos)) == len(videos)


def test_wrong_inputs_are_refused_before_any_phase(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    for error, changes in (
        (InvalidOutput, {"output_path": tmp_path / "missing" / "v.mp4"}),
        (InvalidOutput, {"save_latents": tmp_path / "missing" / "l.safetensors"}),
        (InvalidOutput, {"save_latents": tmp_path}),
        (InvalidOutput, {"save_latents": tmp_path / ("l" * 300)}),
        (InvalidImage, {"image": ROOT / "examples" / "speech.wav"}),
        (InvalidRequest, {"guidance": Guidance(stg_blocks=(28,))}),
        (InvalidAudio, {"num_frames": "auto", "audio": tmp_path / "missing.wav"}),
    ):
        with pytest.raises(error):
            next(iter(pipeline.generate(GenerationRequest(**request_fields | changes))))


def test_outputs_do_not_overwrite(
    pipeline: A2VPipeline, model: ModelPaths, request_fields: dict[str, object], tmp_path: Path
) -> None:
    audio, link = silence(tmp_path / "a.mp4", 1), tmp_path / "link.mp4"
    link.symlink_to(audio)
    hard = tmp_path / "hard.mp4"
    os.link(audio, hard)
    for changes, says in (
        ({"audio": audio, "output_path": audio}, "output_path .* is the same file as audio"),
        ({"audio": audio, "output_path": link}, "audio"),
        ({"audio": audio, "output_path": hard}, "audio"),
        ({"save_latents": request_fields["image"]}, "save_latents .* is the same file as image"),
        ({"save_latents": model.checkpoint}, "checkpoint_path"),
        ({"save_latents": model.gemma_root / "config.json"}, "gemma_root"),
        ({"save_latents": tmp_path / "." / "video.mp4"}, "output_path"),
    ):
        with pytest.raises(InvalidOutput, match=says):
            next(iter(pipeline.generate(GenerationRequest(**request_fields | changes))))


def test_latents_that_cannot_be_written_leave_nothing(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    events = pipeline.generate(GenerationRequest(**request_fields | {"save_latents": folder / "l.safetensors"}))
    next(e for e in events if isinstance(e, PhaseStarted) and e.phase == "decode")
    folder.rmdir()
    with pytest.raises(InvalidOutput, match=r"l\.safetensors cannot be written"):
        list(events)
    assert list(tmp_path.iterdir()) == []


def test_one_frame_at_a_high_rate(pipeline: A2VPipeline, request_fields: dict[str, object]) -> None:
    """Shorter than half of an audio latent's time."""
    assert pipeline.run(GenerationRequest(**request_fields | {"num_frames": 1, "frame_rate": 120})).num_frames == 1


def test_weights_that_give_no_numbers(model: ModelPaths, small_request: GenerationRequest, tmp_path: Path) -> None:
    path, tensors = tmp_path / "c.safetensors", load_file(model.checkpoint)
    tensors["model.diffusion_model.proj_out.bias"][0] = torch.nan
    with safe_open(model.checkpoint, "pt") as file:
        save_file(tensors, path, file.metadata())
    with pytest.raises(NotFinite, match="stage_1"):
        A2VPipeline.open(replace(model, checkpoint=path), device="cpu").run(small_request)
    assert list(tmp_path.glob("video*")) == []


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_a_host_without_memory(
    pipeline: A2VPipeline, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline_module, "load_audio", fail)
    with pytest.raises(OutOfMemory, match="host's memory"):
        pipeline.run(small_request)


def test_a_phase_is_a_function_or_a_generator_that_is_closed() -> None:
    closed = []

    def work() -> Iterator[Event]:
        try:
            yield Notice("working")
        finally:
            closed.append(True)

    log = PhaseLog(torch.device("cpu"))
    events = log.phase("decode", work)
    seen = [next(events), next(events)]
    with pytest.raises(KeyError) as stop:  # whose traceback keeps every frame alive
        events.throw(KeyError())
    assert closed == [True]
    assert seen[1] == Notice("working")
    assert stop.tb is not None

    events = log.phase("decode", lambda: 3)
    assert isinstance(next(events), PhaseStarted)
    assert isinstance(next(events), PhaseFinished)
    with pytest.raises(StopIteration) as end:
        next(events)
    assert end.value.value == 3


def test_dtypes_that_are_not_computed_in(model: ModelPaths) -> None:
    for dtype in (torch.float16, "bfloat16"):
        with pytest.raises(InvalidInput, match="dtype"):
            A2VPipeline.open(model, device="cpu", dtype=dtype)


def test_devices_that_are_not_there(model: object) -> None:
    with pytest.raises(InvalidInput, match="there is one CPU"):
        A2VPipeline.open(model, device="cpu:99")
    with pytest.raises(InvalidInput, match="use cuda"):
        A2VPipeline.open(model, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="device cpu"):
            A2VPipeline.open(model, device="cuda")


def test_bfloat16_runs_too(model: object, small_request: GenerationRequest) -> None:
    assert A2VPipeline.open(model, device="cpu", dtype=torch.bfloat16).run(small_request).num_frames == 9
