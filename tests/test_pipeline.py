"""The library's front door: events in order, determinism, stopping, choices that depend on model and audio."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance
from ltx_a2v.errors import InvalidAudio, InvalidInput, InvalidOutput, InvalidRequest
from ltx_a2v.events import PHASES, Done, Notice, PhaseFinished, PhaseStarted, StepFinished


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


def test_auto_takes_the_frames_that_the_audio_covers(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    fields = request_fields | {"num_frames": "auto", "audio": silence(tmp_path / "a.wav", 0.8)}
    assert pipeline.run(GenerationRequest(**fields)).num_frames == 17  # 19 covered, 8k+1


def test_short_audio_is_padded_and_said(
    pipeline: A2VPipeline, request_fields: dict[str, object], tmp_path: Path
) -> None:
    request = GenerationRequest(**request_fields | {"audio": silence(tmp_path / "a.wav", 0.2)})
    events = list(pipeline.generate(request))

    assert any(isinstance(e, Notice) and "silence" in e.message for e in events)
    assert "0.17 s shorter" in events[-1].result.notices[0]


def test_long_prompts_are_cut_and_said(pipeline: A2VPipeline, request_fields: dict[str, object]) -> None:
    result = pipeline.run(GenerationRequest(**request_fields | {"prompt": "speak " * 300}))
    assert "cut to 1024 tokens" in result.notices[0]


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
        (InvalidRequest, {"guidance": Guidance(stg_blocks=(28,))}),
        (InvalidAudio, {"num_frames": "auto", "audio": tmp_path / "missing.wav"}),
    ):
        with pytest.raises(error):
            next(iter(pipeline.generate(GenerationRequest(**request_fields | changes))))


def test_devices_that_are_not_there(model: object) -> None:
    with pytest.raises(InvalidInput, match="use cuda"):
        A2VPipeline.open(model, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="--device cpu"):
            A2VPipeline.open(model, device="cuda")


def test_bfloat16_runs_too(model: object, small_request: GenerationRequest) -> None:
    assert A2VPipeline.open(model, device="cpu", dtype=torch.bfloat16).run(small_request).num_frames == 9
