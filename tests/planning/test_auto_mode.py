"""`auto`: which format the transformer gets, and the line that says so. A CPU with a budget stands in for a GPU."""

from __future__ import annotations

import pytest
import torch

from ltx_a2v import A2VPipeline, Budget, GenerationRequest, LoadOptions, ModelPaths, Planned
from ltx_a2v.planning import auto_mode

REQUEST = GenerationRequest(prompt="p", audio="-", width=128, height=64, num_frames=9)


def opened(model: ModelPaths, **options: object) -> A2VPipeline:
    return A2VPipeline.open(model, device="cpu", dtype=torch.bfloat16, options=LoadOptions(**options))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_mode, "DEVICES", ("cpu",))


def just_too_small(model: ModelPaths) -> Budget:
    """Less than what holds every block of the file's own format."""
    plan = opened(model).plan_for(REQUEST, Budget("unlimited"))
    return Budget(f"{max(plan.peak - 2**10, plan.smallest)}B")


def test_the_files_own_format_where_everything_stays_resident(model: ModelPaths, gpu: None) -> None:
    for budget in (Budget("unlimited"), Budget("20GiB")):
        pipeline = opened(model, budget=budget)
        assert pipeline.plan_for(REQUEST).bus_bytes_per_step == 0
        assert pipeline.model.transformer_policy.mode == "none"


def test_int8_where_blocks_would_be_copied(model: ModelPaths, gpu: None) -> None:
    pipeline = opened(model, budget=just_too_small(model))
    pipeline.plan_for(REQUEST)
    assert pipeline.model.transformer_policy.mode == "int8"
    pipeline.plan_for(REQUEST, Budget("unlimited"))  # what was chosen stays
    assert pipeline.model.transformer_policy.mode == "int8"


def test_a_cpu_and_a_chosen_format_are_left_alone(model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = just_too_small(model)
    pipeline = opened(model, budget=budget)
    pipeline.plan_for(REQUEST)
    assert pipeline.model.transformer_policy.mode == "none"
    monkeypatch.setattr(auto_mode, "DEVICES", ("cpu",))
    for wanted in ("file", "none", None):
        pipeline = opened(model, budget=budget, transformer_quantization=wanted)
        pipeline.plan_for(REQUEST)
        assert pipeline.model.transformer_policy.mode == "none"


def test_the_choice_and_the_plan_are_said_first(model: ModelPaths, gpu: None, small_request: GenerationRequest) -> None:
    pipeline = opened(model, budget=just_too_small(model))
    events = list(pipeline.generate(small_request))
    assert isinstance(events[0], Planned)
    assert events[0].message.startswith("transformer int8 (auto: ")
    report = events[-1].result.as_json()  # type: ignore[union-attr]
    assert report["plan"] == events[0].message
    assert report["transformer_quantization"] == "int8"
