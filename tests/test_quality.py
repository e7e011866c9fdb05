"""Quality fast, skipped steps, distilled checkpoints and the distilled LoRA's strength, through the pipeline's door.

That both are the reference's results is in `test_reference.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v.errors import InvalidModel, InvalidRequest
from ltx_a2v.events import Done, PhaseFinished, StepFinished
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.planning.plan import Plan
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.network import Home, Network, Placement
from ltx_a2v.settings.loading import LoadOptions

SPEEDS = Speeds(
    read=1e6, copy=1e9, step_1=0.01, step_2=0.02, decode=0.1, per_parameter=0, overlaps=True, extrapolated=False
)


@pytest.fixture
def fields(request_fields: dict[str, object]) -> dict[str, object]:
    return request_fields | {"quality": "fast"}


@pytest.fixture
def fast(fields: dict[str, object]) -> GenerationRequest:
    return GenerationRequest(**fields)


def bytes_of(pipeline: A2VPipeline, request: GenerationRequest) -> bytes:
    return pipeline.run(request).output_path.read_bytes()


def latents(pipeline: A2VPipeline, fields: dict[str, object], **changes: object) -> dict[str, Tensor]:
    path = Path(str(fields["output_path"])).with_suffix(".safetensors")
    pipeline.run(GenerationRequest(**fields | changes | {"save_latents": path}))
    return load_file(path)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in ("stage_1", "stage_2"))


# -- fast --------------------------------------------------------------------------------------------------------------


def test_fast_takes_eight_and_three_steps_and_the_report_says_so(
    pipeline: A2VPipeline, fast: GenerationRequest, small_request: GenerationRequest
) -> None:
    *events, done = pipeline.generate(fast)
    steps = Counter(event.phase for event in events if isinstance(event, StepFinished))
    assert (steps["stage_1"], steps["stage_2"]) == (8, 3)
    assert isinstance(done, Done)
    assert (done.result.quality, done.result.as_json()["quality"]) == ("fast", "fast")
    assert pipeline.run(small_request).as_json()["quality"] == "standard"


def test_fast_does_not_use_guidance_steps_and_negative_prompt_and_says_so(
    pipeline: A2VPipeline, fields: dict[str, object]
) -> None:
    plain = {**fields, "num_inference_steps": 8}
    alone = latents(pipeline, plain)
    given = plain | {"num_inference_steps": 20, "negative_prompt": "rain", "guidance": Guidance(cfg=5)}
    assert same(alone, latents(pipeline, given))
    notices = pipeline.run(GenerationRequest(**given)).notices
    assert [notice for notice in notices if notice.startswith("Quality")] == [
        "Quality fast takes 8 steps in one pass. Not used: the number of steps, the guidance, the negative prompt."
    ]
    neutral = Guidance(cfg=1, stg=0, modality=1, rescale=0)
    for quiet in ({}, {"num_inference_steps": 30}, {"negative_prompt": "", "guidance": neutral}):
        assert not any(n.startswith("Quality") for n in pipeline.run(GenerationRequest(**plain | quiet)).notices)


def test_fast_reads_the_lora_once_for_both_stages(
    pipeline: A2VPipeline, fast: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = Network._load

    def counting(network: Network, placement: object) -> object:
        loads.append(network.loader.blueprint.name)
        return load(network, placement)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "_load", counting)
    pipeline.run(fast)
    assert [name for name in loads if "distilled-lora" in name] == ["LoRA ltx-2.3-miniature-distilled-lora.safetensors"]


def test_a_plan_of_fast_has_the_lora_in_both_stages(
    pipeline: A2VPipeline, fast: GenerationRequest, small_request: GenerationRequest
) -> None:
    standard, quick = (pipeline.plan_for(request, Budget("unlimited")) for request in (small_request, fast))
    with_lora = {name for name, networks in quick.networks.items() if "distilled" in networks}
    assert with_lora == {"stage_1", "upsample", "stage_2"}
    assert {name for name, networks in standard.networks.items() if "distilled" in networks} == {"stage_2"}
    peaks = [{phase.name: phase for phase in plan.phases} for plan in (standard, quick)]
    assert peaks[1]["stage_1"].activations < peaks[0]["stage_1"].activations  # one pass
    lora = sum(pipeline.model.sizes["distilled"].blocks)
    assert peaks[1]["stage_1"].weights == peaks[0]["stage_1"].weights + lora


VARIANTS = pytest.mark.parametrize(
    "changes", [{"quality": "fast"}, {"guidance": Guidance(skip_step=1)}], ids=["fast", "skip"]
)


@VARIANTS
def test_phases_take_the_memory_that_is_predicted(
    pipeline: A2VPipeline, request_fields: dict[str, object], changes: dict[str, object]
) -> None:
    """Where there is a budget, a CPU's ledger counts."""
    request = GenerationRequest(**request_fields | {"num_inference_steps": 3} | changes)
    plan = pipeline.plan_for(request, Budget("2GiB"))
    predicted = {phase.name: phase.peak for phase in plan.phases}
    finished = [event for event in pipeline.generate(request, plan) if isinstance(event, PhaseFinished)]
    taken = {event.phase: event.allocated_gib * 2**30 for event in finished}
    for name in ("stage_1", "upsample", "stage_2"):
        assert 0.9 * predicted[name] < taken[name] <= predicted[name] + 1024  # events round to a kilobyte


@VARIANTS
@pytest.mark.parametrize("home", ["host", "file"])
def test_streamed_the_same_bytes(
    pipeline: A2VPipeline, request_fields: dict[str, object], changes: dict[str, object], home: Home
) -> None:
    request = GenerationRequest(**request_fields | {"num_inference_steps": 3} | changes)
    expected = bytes_of(pipeline, request)
    list(pipeline.generate(request, streamed(pipeline, request, home)))
    pipeline.release()
    assert request.output_path.read_bytes() == expected


def streamed(pipeline: A2VPipeline, request: GenerationRequest, home: Home) -> Plan:
    """All blocks of both networks that are swept."""
    plan = pipeline.plan_for(request, Budget("unlimited"))
    placements = dict.fromkeys(("transformer", "distilled"), Placement(home, 0, whole_copy=False))
    return replace(plan, placements={**plan.placements, **placements})


# -- skipped steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "skip"), [(4, 0), (4, 1), (5, 1), (7, 2), (3, 2)])
def test_a_skipped_step_moves_no_weights(
    pipeline: A2VPipeline,
    request_fields: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    skip: int,
) -> None:
    fields = request_fields | {"num_inference_steps": steps, "guidance": Guidance(skip_step=skip)}
    request = GenerationRequest(**fields)
    copies: Counter[str] = Counter()
    fetch = TensorLoader.fetch

    def counting(loader: TensorLoader, piece: object, flat: Tensor) -> None:
        if loader is pipeline.model.loaders["transformer"]:
            copies[piece.name] += 1  # type: ignore[attr-defined]
        fetch(loader, piece, flat)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorLoader, "fetch", counting)
    *events, _ = pipeline.generate(request, streamed(pipeline, request, "file"))
    assert sum(isinstance(event, StepFinished) and event.phase == "stage_1" for event in events) == steps
    assert copies["transformer_blocks.1"] == ceil(steps / (skip + 1)) + 3  # stage 2 has three steps


def test_predicted_steps_are_those_that_compute(
    pipeline: A2VPipeline, request_fields: dict[str, object], fast: GenerationRequest
) -> None:
    skipping = GenerationRequest(**request_fields | {"num_inference_steps": 7, "guidance": Guidance(skip_step=2)})
    for request, computed in ((fast, 8), (skipping, 3)):
        plan = pipeline.plan_for(request, Budget("unlimited"))
        prediction = pipeline.predict(request, plan, SPEEDS)
        assert prediction.steps == pytest.approx(computed * 0.01 + 3 * 0.02)


def test_the_machine_is_measured_with_the_lora_in_stage_1(pipeline: A2VPipeline, fast: GenerationRequest) -> None:
    speeds = pipeline.measure(fast)
    assert speeds.step_1 > 0
    assert speeds.step_2 > 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"guidance": {"skip_step": -1}}, "guidance.skip_step -1 is too small: it must be at least 0."),
        (
            {"guidance": {"skip_step": 30}},
            "guidance.skip_step 30 is too large: it must be below num_inference_steps, 30.",
        ),
        ({"guidance": {"skip_step": 10**9}}, "guidance.skip_step 1000000000 is too large: it must be below 1000."),
        ({"guidance": {"skip_step": 1.5}}, "guidance.skip_step 1.5 is not a whole number."),
        ({"guidance": {"skip_step": 2}, "num_inference_steps": 2}, "it must be below num_inference_steps, 2."),
        (
            {"guidance": {"skip_step": 1}, "quality": "fast"},
            "guidance.skip_step 1 cannot be used with quality fast, which needs all of its 8 steps: use 0.",
        ),
        ({"quality": "best"}, "quality 'best' is none of 'standard' or 'fast'."),
        ({"quality": None}, "quality None is none of 'standard' or 'fast'."),
    ],
)
def test_requests_that_contradict_themselves(fields: dict[str, object], says: str) -> None:
    def make() -> None:
        guidance = Guidance(**fields.get("guidance", {}))
        GenerationRequest(prompt="p", audio="a.wav", **fields | {"guidance": guidance})

    with pytest.raises(InvalidRequest) as error:
        make()
    assert str(error.value).endswith(says)
    assert "\n" not in str(error.value)


# -- the distilled LoRA and distilled checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def distilled(model: ModelPaths) -> A2VPipeline:
    """The same weights, said to be distilled."""
    return A2VPipeline.open(replace(model, distilled_lora=None), device="cpu")


def test_a_distilled_checkpoint_has_no_lora_in_either_stage(
    distilled: A2VPipeline, pipeline: A2VPipeline, model: ModelPaths, fields: dict[str, object]
) -> None:
    without = latents(distilled, fields)
    turned_off = A2VPipeline.open(model, device="cpu", options=LoadOptions(distilled_lora_strength=0))
    assert same(without, latents(turned_off, fields))
    assert not same(without, latents(pipeline, fields))
    assert "distilled" not in distilled.plan_for(GenerationRequest(**fields)).placements


def test_a_distilled_checkpoint_makes_quality_fast_only(
    distilled: A2VPipeline, small_request: GenerationRequest, fast: GenerationRequest
) -> None:
    for refuse in (distilled.plan, distilled.plan_for, distilled.run):
        with pytest.raises(InvalidRequest, match=r"quality 'standard' needs a checkpoint that is not distilled: use"):
            refuse(small_request)
    assert distilled.measure(fast).step_2 > 0
    assert distilled.prepare().phases
    distilled.release()


def test_the_strength_multiplies_the_lora_of_both_stages(
    model: ModelPaths, tmp_path: Path, fields: dict[str, object]
) -> None:
    factors = load_file(model.distilled_lora)
    halved = {n: t / 2 if n.endswith("lora_B.weight") else t for n, t in factors.items()}
    save_file(halved, tmp_path / "half.safetensors")
    opened = A2VPipeline.open(model, device="cpu", options=LoadOptions(distilled_lora_strength=0.5))
    expected = A2VPipeline.open(replace(model, distilled_lora=tmp_path / "half.safetensors"), device="cpu")
    assert same(latents(opened, fields), latents(expected, fields))


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.1, 2.1])
def test_a_strength_out_of_range(strength: float) -> None:
    with pytest.raises(InvalidRequest, match=r"distilled_lora_strength .* is not a strength: it must be from 0 to 2"):
        LoadOptions(distilled_lora_strength=strength)


@pytest.fixture
def without_lora(model: ModelPaths, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (model.checkpoint, model.spatial_upsampler, model.gemma_root):
        (folder / path.name).symlink_to(path)
    return folder


def test_a_folder_without_the_lora(without_lora: Path) -> None:
    with pytest.raises(InvalidModel, match=r"No distilled LoRA .* was found in .*; put it there or give its path with"):
        ModelPaths.discover(without_lora)
    assert ModelPaths.discover(without_lora, distilled_checkpoint=True).distilled_lora is None
