"""CUDA graphs of blocks: the same bits, few captures, nothing stale, nothing left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v.events import Done, Event, Notice, StepFinished
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.planning.plan import Keep, Plan
from ltx_a2v.residency.network import Home, Placement
from ltx_a2v.settings.loading import LoadOptions, StyleLora
from tests.diffusion.recorded_graphs import RecordingCapturer, capturer

__all__ = ["capturer"]

BLOCKS = 4
REFUSED = "operation not permitted when stream is capturing"


def opened(model: ModelPaths, mode: str = "int8", keep: Keep = "nothing", **options: object) -> A2VPipeline:
    given = LoadOptions(mode, keep=keep, prompt_cache=False, **options)  # type: ignore[arg-type]
    return A2VPipeline.open(model, device="cpu", options=given)


def eager(model: ModelPaths, request: GenerationRequest, mode: str = "int8", **options: object) -> bytes:
    """Computed once per kind of request."""
    fields = request.model_dump(exclude={"output_path", "save_latents"})
    key = repr((fields, mode, sorted(options)))
    if key not in _eager:
        _eager[key] = made(opened(model, mode, cuda_graphs=False, **options), request)
    return _eager[key]


_eager: dict[str, bytes] = {}


def made(pipeline: A2VPipeline, request: GenerationRequest, plan: Plan | None = None) -> bytes:
    """The latents of both stages."""
    return events_and_latents(pipeline, request, plan)[1]


def events_and_latents(
    pipeline: A2VPipeline, request: GenerationRequest, plan: Plan | None = None
) -> tuple[list[Event], bytes]:
    assert request.save_latents is not None
    events = list(pipeline.generate(request, plan or placed(pipeline)))
    assert isinstance(events[-1], Done)
    return events, request.save_latents.read_bytes()


def placed(pipeline: A2VPipeline, **placements: Placement) -> Plan:
    """A plan without measuring, which takes longer than the request."""
    home: Home = "device" if pipeline.keep == "device" else "file"
    every = dict.fromkeys(pipeline.model.networks, Placement(home))
    return Plan(None, {**every, **placements}, (), 0, 0, graphs=True)


@pytest.fixture
def asked(request_fields: dict[str, object], tmp_path: Path) -> GenerationRequest:
    """Two guided steps; the perturbed pass splits off at block 1."""
    fields = request_fields | {"width": 64, "guidance": Guidance(stg_blocks=(1,))}
    return GenerationRequest(**fields, save_latents=tmp_path / "latents.safetensors")


@pytest.fixture
def style(tmp_path: Path) -> StyleLora:
    """On block 1 only."""
    factors = {
        f"diffusion_model.transformer_blocks.1.attn1.to_q.lora_{part}.weight": torch.ones(shape) * 0.1
        for part, shape in (("A", (3, 128)), ("B", (128, 3)))
    }
    save_file(factors, tmp_path / "style.safetensors")
    return StyleLora(tmp_path / "style.safetensors")


@pytest.mark.parametrize("mode", ["none", "fp8-scaled-mm", "int4-quanto"])
def test_same_bits_with_everything_resident(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, mode: str
) -> None:
    expected = eager(model, asked, mode)
    assert capturer.tried == 0
    pipeline = opened(model, mode)
    assert made(pipeline, asked) == expected
    assert capturer.tried == 2 * BLOCKS  # a resident block has its own graph, per stage
    assert capturer.replays == BLOCKS * (1 + 2)  # all steps of a stage but the first
    assert capturer.prepared == 2


@pytest.mark.parametrize(("home", "resident", "slots"), [("host", 0, 2), ("file", 1, 2)])
def test_same_bits_with_streamed_blocks(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, home: str, resident: int, slots: int
) -> None:
    expected = eager(model, asked)
    pipeline = opened(model)
    streamed = Placement(home, resident, slots)  # type: ignore[arg-type]
    plan = placed(pipeline, transformer=streamed, distilled=streamed)
    assert made(pipeline, asked, plan) == expected
    assert made(pipeline, asked, plan) == expected


def test_blocks_of_one_slot_and_plan_share_a_graph(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    """Stage 1 has three plans here: block 0, blocks 1 and 2 after the passes have split, and the last."""
    expected = eager(model, asked)
    pipeline = opened(model)
    one_slot = Placement("host", 0, 1)
    request = asked.model_copy(update={"guidance": Guidance(stg=0.0)})
    plan = placed(pipeline, transformer=one_slot, distilled=one_slot)
    without_stg = eager(model, request)
    assert without_stg != expected
    assert made(pipeline, request, plan) == without_stg
    assert capturer.tried == 3 + 2  # stage 2 has one row throughout: only the last block has a plan of its own


def test_blocks_of_another_layout_in_a_slot_have_their_own_graph(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    """Block 2 is kept in bf16: in the same slot its tensors are elsewhere, and multiplied otherwise."""
    options = {"keep_bf16_blocks": frozenset({2})}
    expected = eager(model, asked, **options)
    pipeline = opened(model, **options)
    one_slot = Placement("host", 0, 1)
    assert made(pipeline, asked, placed(pipeline, transformer=one_slot, distilled=one_slot)) == expected


@pytest.mark.parametrize("home", ["device", "host"])
def test_adapters_of_some_blocks_only(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, style: StyleLora, home: str
) -> None:
    """Streamed through one slot, blocks with and without a style LoRA have different graphs."""
    expected = eager(model, asked, loras=(style,))
    assert expected != eager(model, asked)
    pipeline = opened(model, loras=(style,), keep="device")
    where = Placement("device") if home == "device" else Placement("host", 0, 1)
    plan = placed(pipeline, transformer=where, distilled=where, **{"lora 0": where})
    for _ in range(2):
        assert made(pipeline, asked, plan) == expected


def test_a_second_request_of_the_same_shape_captures_nothing(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    """With weights that stay on the device. Other prompts, pictures and scales of guidance are the same shape."""
    other = asked.model_copy(
        update={"prompt": "A cat.", "image": None, "seed": 3, "guidance": asked.guidance.model_copy()}
    )
    expected = [eager(model, request) for request in (asked, other)]
    pipeline = opened(model, keep="device")
    assert made(pipeline, asked) == expected[0]
    captured = capturer.tried
    assert captured == 2 * BLOCKS
    assert made(pipeline, other) == expected[1]
    assert made(pipeline, asked) == expected[0]
    assert capturer.tried == captured
    assert capturer.released == 0
    assert capturer.replays == BLOCKS * (1 + 2 + 2 * (2 + 3))  # from the second request on, first steps too
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.captures == captured
    assert graphs.nbytes > 0
    pipeline.release()
    assert capturer.released == 1
    assert graphs.nbytes == 0
    assert made(pipeline, asked) == expected[0]


def test_a_request_of_another_shape_releases_the_graphs_of_the_first(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    longer = asked.model_copy(update={"num_frames": 17})
    expected = [eager(model, request) for request in (asked, longer)]
    pipeline = opened(model, keep="device")
    assert made(pipeline, asked) == expected[0]
    assert made(pipeline, longer) == expected[1]
    assert capturer.released == 1
    assert capturer.tried == 4 * BLOCKS
    assert made(pipeline, asked) == expected[0]
    assert capturer.tried == 6 * BLOCKS
    assert capturer.replays == BLOCKS * (3 + 3 + 5)  # its kernels are compiled since the first request


def test_graphs_end_with_the_weights_that_they_address(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    pipeline = opened(model)
    made(pipeline, asked)
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.nbytes == 0
    assert capturer.released == 2  # after each stage: nothing is kept
    made(pipeline, asked)
    assert capturer.tried == 4 * BLOCKS


def test_other_placements_of_the_same_weights_capture_anew(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    expected = eager(model, asked)
    pipeline = opened(model, keep="device")
    device, host = Placement("device"), Placement("host", 1)
    for where in (device, host, device):
        assert made(pipeline, asked, placed(pipeline, transformer=where, distilled=where)) == expected


def test_exact_passes_are_not_captured(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    made(opened(model, exact_passes=True), asked)
    assert capturer.tried == 0


# -- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [1, BLOCKS + 2])
def test_a_capture_that_fails_is_said_once_and_computed_without_graphs(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, fails_at: int
) -> None:
    expected = eager(model, asked)
    capturer.fails_at = fails_at
    pipeline = opened(model, keep="device")
    events, latents = events_and_latents(pipeline, asked)
    assert latents == expected
    said = [event.message for event in events if isinstance(event, Notice) and "graphs" in event.message]
    assert said == [f"Steps may take longer without CUDA graphs, which cannot be used: {REFUSED}."]
    assert capturer.tried == fails_at
    assert capturer.released == 1
    replays = capturer.replays
    events, latents = events_and_latents(pipeline, asked)
    assert latents == expected
    assert not [event for event in events if isinstance(event, Notice) and "graphs" in event.message]
    assert (capturer.tried, capturer.replays) == (fails_at, replays)
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.nbytes == 0  # nor are there buffers


def test_a_capture_without_memory_is_tried_again_in_the_next_request(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    expected = eager(model, asked)
    capturer.fails_at, capturer.error = 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    pipeline = opened(model, keep="device")
    assert made(pipeline, asked) == expected
    assert capturer.tried == 2 + BLOCKS  # given up in stage 1; stage 2 has its own
    assert made(pipeline, asked) == expected
    assert capturer.tried == 2 + 2 * BLOCKS


def test_memory_that_runs_out_in_a_replay_is_tried_again_with_a_smaller_plan(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = eager(model, asked)
    pipeline = opened(model, keep="device")
    made(pipeline, asked)
    graphs = pipeline.model.graphs
    assert graphs is not None
    failing = iter([True])

    def full(work: object) -> object:
        if next(failing, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work

    replay = graphs.replay
    monkeypatch.setattr(graphs, "replay", lambda key, work: lambda: full(replay(key, work))())  # type: ignore[operator]
    events, latents = events_and_latents(pipeline, asked, pipeline.plan(asked))
    assert latents == expected
    assert any(isinstance(event, Notice) and "trying again within" in event.message for event in events)
    assert capturer.released >= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interrupted_capture_leaves_nothing_and_the_next_request_works(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer, error: BaseException
) -> None:
    expected = eager(model, asked)
    capturer.fails_at, capturer.error = 2, error
    pipeline = opened(model, keep="device")
    with pytest.raises((KeyboardInterrupt, Exception)):
        made(pipeline, asked)
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.nbytes == 0
    assert made(pipeline, asked) == expected


def test_a_cancelled_request_leaves_nothing(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    expected = eager(model, asked)
    pipeline = opened(model, keep="device")
    events = pipeline.generate(asked, placed(pipeline))
    next(event for event in events if isinstance(event, StepFinished) and event.step == 2)
    events.close()
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.nbytes == 0
    assert made(pipeline, asked) == expected


# -- memory ----------------------------------------------------------------------------------------------------------


def test_plans_count_graphs_where_they_are_captured_and_where_they_are_kept(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    plain, pipeline = opened(model, cuda_graphs=False), opened(model)
    without, plan = plain.plan(asked), pipeline.plan(asked)
    assert (without.graphs, plan.graphs) == (False, True)
    assert plan.smallest == without.smallest
    more = {a.name: a.activations - b.activations for a, b in zip(plan.phases, without.phases, strict=True)}
    assert {name for name, size in more.items() if size} == {"stage_1", "stage_2"}
    assert min(more["stage_1"], more["stage_2"]) > 0

    plain.keep = pipeline.keep = "device"
    without, plan = plain.plan(asked), pipeline.plan(asked)
    made(pipeline, asked)
    graphs = pipeline.model.graphs
    assert graphs is not None
    for phase, before in zip(plan.phases, without.phases, strict=True):
        assert phase.activations - before.activations >= graphs.nbytes * (not phase.name.startswith("stage"))
    tight = pipeline.plan(asked, Budget(f"{without.peak}b"))
    assert (tight.keep, tight.graphs) == ("device", False)


def test_a_plan_without_graphs_captures_nothing_and_releases_what_was_kept(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    pipeline = opened(model, keep="device")
    expected = made(pipeline, asked)
    captured = capturer.tried
    assert made(pipeline, asked, replace(placed(pipeline), graphs=False)) == expected
    assert (capturer.tried, capturer.released) == (captured, 1)


def test_speeds_are_measured_with_graphs(
    model: ModelPaths, asked: GenerationRequest, capturer: RecordingCapturer
) -> None:
    pipeline = opened(model, keep="device")
    made(pipeline, asked)
    captured = capturer.tried
    speeds = pipeline.measure(asked)
    assert min(speeds.step_1, speeds.step_2) > 0
    assert capturer.tried > captured
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert graphs.nbytes == 0
