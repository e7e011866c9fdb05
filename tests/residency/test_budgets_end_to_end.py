"""Whole generations within budgets: the same bytes, the peak as predicted, every block once per step."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import BudgetTooSmall, InvalidModel
from ltx_a2v.events import Done
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.planning.plan import Plan
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions

MODE = "int8"


def open_with(model: ModelPaths, budget: str = "unlimited", **options: object) -> A2VPipeline:
    return A2VPipeline.open(
        model, device="cpu", options=LoadOptions(MODE, budget=Budget(budget), prompt_cache=False, **options)
    )


def video(pipeline: A2VPipeline, request: GenerationRequest, plan: Plan | None = None) -> bytes:
    *_, done = pipeline.generate(request, plan)
    assert isinstance(done, Done)
    return done.result.output_path.read_bytes()


def placed(pipeline: A2VPipeline, request: GenerationRequest, placement: Placement) -> Plan:
    """A plan that puts every network there."""
    return replace(pipeline.plan(request), placements=dict.fromkeys(pipeline.model.networks, placement))


MERGED_LORA = {"width": 192, "height": 128, "num_frames": 17}
"""72 tokens in stage 2: above the number from which the linears of 128 x 128 merge their LoRA."""


@pytest.mark.parametrize("size", [{}, MERGED_LORA], ids=["small", "merged LoRA"])
def test_predictions_hold_and_a_ledger_keeps_the_budget(
    size: dict[str, int], model: ModelPaths, small_request: GenerationRequest
) -> None:
    request = small_request.model_copy(update=size)
    plan = open_with(model).plan(request)
    budget = int(plan.peak * 1.02)
    result = open_with(model, f"{budget}b").run(request)
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
    ("home", "resident", "slots", "size"),
    [
        ("host", 0, 2, {}),
        ("host", 1, 1, MERGED_LORA),
        ("file", 0, 2, {}),
        ("file", 2, 3, {}),
        ("device", None, 2, {}),
    ],
    ids=str,
)
def test_same_bytes_wherever_the_weights_are(
    model: ModelPaths,
    small_request: GenerationRequest,
    home: str,
    resident: int | None,
    slots: int,
    size: dict[str, int],
) -> None:
    request = small_request.model_copy(update=size)
    reference = video(open_with(model), request)
    pipeline = open_with(model)
    plan = placed(pipeline, request, Placement(home, resident, slots))
    assert video(pipeline, request, plan) == reference
    assert video(pipeline, request, plan) == reference  # from what was kept
    pipeline.release()
    assert all(not n.on_device and n.host_bytes == 0 for n in pipeline.model.networks.values())


def test_each_block_is_copied_once_per_step(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[int, int]] = []
    close = BlockStream.close
    monkeypatch.setattr(
        BlockStream, "close", lambda self: (closed.append((len(self._blocks), self.copies)), close(self))
    )
    pipeline = open_with(model)
    video(pipeline, small_request, placed(pipeline, small_request, Placement("host", 0)))
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
    events = pipeline.generate(small_request, placed(pipeline, small_request, Placement("file", 0)))
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
    networks = pipeline.model.networks.values()
    assert all(network.on_device for network in networks)
    reference = video(open_with(model), small_request)
    assert video(pipeline, small_request) == reference
    pipeline.release()
    assert not any(network.on_device for network in networks)


def test_only_streamed_blocks_are_copied_to_host_memory(model: ModelPaths, small_request: GenerationRequest) -> None:
    reference = video(open_with(model), small_request)
    pipeline = open_with(model)
    placement = Placement("host", 3, whole_copy=False)
    assert video(pipeline, small_request, placed(pipeline, small_request, placement)) == reference
    model_ = pipeline.model
    for name in ("transformer", "distilled"):
        assert model_.networks[name].host_bytes == model_.sizes[name].streamed(placement) > 0


@pytest.mark.parametrize(("host_memory", "reads"), [(None, False), (1, True)])
def test_a_new_prompt_reads_no_layer_where_host_memory_keeps_them(
    model: ModelPaths, request_fields: dict[str, object], tmp_path: Path, host_memory: int | None, reads: bool
) -> None:
    own = replace(model, gemma_root=Path(shutil.copytree(model.gemma_root, tmp_path / "gemma")))
    options = {"text_encoder_quantization": "int4", "keep": "host", "host_memory": host_memory}
    pipeline = open_with(own, **options)
    first, second = (GenerationRequest(**request_fields | {"prompt": text}) for text in ("A robot.", "A dog sings."))
    expected = video(open_with(model, text_encoder_quantization="int4"), second)

    video(pipeline, first)
    weights = SafetensorsFile.open(own.gemma_root / "model.safetensors")
    with weights.path.open("r+b") as file:
        for name, entry in weights.tensors.items():
            if ".layers." in name:
                file.seek(entry.offset)
                file.write(bytes(entry.nbytes))
    assert (video(pipeline, second) != expected) == reads
