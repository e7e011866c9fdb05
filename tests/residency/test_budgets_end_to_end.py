"""Whole generations within budgets: the same bytes, the peak as predicted, every block once per step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.errors import BudgetTooSmall, InvalidModel
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions

MODE = "int8"


def open_with(model: ModelPaths, budget: str = "unlimited", **options: object) -> A2VPipeline:
    return A2VPipeline.open(
        model, device="cpu", options=LoadOptions(MODE, budget=Budget(budget), prompt_cache=False, **options)
    )


def video(pipeline: A2VPipeline, request: GenerationRequest) -> bytes:
    return pipeline.run(request).output_path.read_bytes()


def test_predictions_hold_and_a_ledger_keeps_the_budget(model: ModelPaths, small_request: GenerationRequest) -> None:
    plan = open_with(model).plan(small_request)
    budget = int(plan.peak * 1.02)
    result = open_with(model, f"{budget}b").run(small_request)
    assert result.peak_vram_gib * 2**30 <= budget
    for phase, memory in result.details["memory"].items():
        if phase != "encode_prompt":  # two networks, of which the larger one is predicted
            assert memory["allocated"] == pytest.approx(memory["predicted"], rel=0.1), phase


def test_a_budget_below_the_floor_is_refused_before_anything_is_loaded(
    model: ModelPaths, small_request: GenerationRequest
) -> None:
    with pytest.raises(BudgetTooSmall, match="the smallest budget that works is"):
        open_with(model, "1MiB").run(small_request)
    assert not small_request.output_path.exists()


@pytest.mark.parametrize(
    ("home", "resident", "slots"),
    [("host", 0, 2), ("host", 1, 1), ("file", 0, 2), ("file", 2, 3), ("device", None, 2)],
)
def test_same_bytes_wherever_the_weights_are(
    model: ModelPaths, small_request: GenerationRequest, home: str, resident: int | None, slots: int
) -> None:
    reference = video(open_with(model), small_request)
    pipeline = open_with(model)
    placement = Placement(home, resident, slots)
    _place_everything(pipeline, placement)
    assert video(pipeline, small_request) == reference
    assert video(pipeline, small_request) == reference  # from what was kept
    pipeline.release()
    assert all(not n.on_device and n.host_bytes == 0 for n in pipeline._networks._networks.values())


def test_each_block_is_copied_once_per_step(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[int, int]] = []
    close = BlockStream.close
    monkeypatch.setattr(
        BlockStream, "close", lambda self: (closed.append((len(self._blocks), self.copies)), close(self))
    )
    pipeline = open_with(model)
    _place_everything(pipeline, Placement("host", 0))
    pipeline.run(small_request)
    blocks, steps = 4, small_request.num_inference_steps
    # the transformer serves both stages; begin() counts on
    assert (blocks, blocks * (steps + 3)) in closed
    assert (blocks, blocks * 3) in closed  # the distilled LoRA, stage 2 alone


def test_a_checkpoint_cut_while_it_is_streamed(
    model: ModelPaths, small_request: GenerationRequest, tmp_path: Path
) -> None:
    path = tmp_path / "ltx.safetensors"
    whole = model.checkpoint.read_bytes()
    path.write_bytes(whole)
    pipeline = open_with(replace(model, checkpoint=path))
    _place_everything(pipeline, Placement("file", 0))
    events = pipeline.generate(small_request)
    next(e for e in events if getattr(e, "phase", "") == "stage_1" and hasattr(e, "step"))
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InvalidModel, match="ended"):
        list(events)
    assert not small_request.output_path.exists()
    path.write_bytes(whole)
    assert video(pipeline, small_request)


def test_prepare_keeps_and_release_gives_back(model: ModelPaths, small_request: GenerationRequest) -> None:
    pipeline = open_with(model, keep="device")
    assert pipeline.prepare().keep == "device"
    networks = pipeline._networks._networks.values()
    assert all(network.on_device for network in networks)
    reference = video(open_with(model), small_request)
    assert video(pipeline, small_request) == reference
    pipeline.release()
    assert not any(network.on_device for network in networks)


def _place_everything(pipeline: A2VPipeline, placement: Placement) -> None:
    networks = pipeline._networks
    plan = networks.plan

    def fixed(*given: object) -> object:
        return replace(plan(*given), placements=dict.fromkeys(networks._recipes, placement))

    networks.plan = fixed  # type: ignore[method-assign]


def test_only_streamed_blocks_are_copied_to_host_memory(model: ModelPaths, small_request: GenerationRequest) -> None:
    reference = video(open_with(model), small_request)
    pipeline = open_with(model)
    placement = Placement("host", 3, whole_copy=False)
    _place_everything(pipeline, placement)
    assert video(pipeline, small_request) == reference
    networks = pipeline._networks
    for name in ("transformer", "distilled"):
        assert networks._networks[name].host_bytes == networks._sizes[name].streamed(placement) > 0
