"""`auto`: which format the transformer gets, and the line that says so. A CPU with a budget stands in for a GPU."""

from __future__ import annotations

import pytest
import torch

from ltx_a2v import A2VPipeline, Budget, GenerationRequest, LoadOptions, ModelPaths, Planned
from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.planning import auto_mode

REQUEST = GenerationRequest(prompt="p", audio="-", width=128, height=64, num_frames=9)


def opened(model: ModelPaths, **options: object) -> A2VPipeline:
    return A2VPipeline.open(model, device="cpu", dtype=torch.bfloat16, options=LoadOptions(**options))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_mode, "DEVICES", ("cpu",))


@pytest.fixture
def streaming(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature's text encoder needs more memory than its transformer: plans never copy blocks of that one."""
    monkeypatch.setattr(auto_mode, "copied", lambda plan: "14.40 GiB at each step")


def test_the_files_own_format_where_everything_stays_resident(model: ModelPaths, gpu: None) -> None:
    for budget in (Budget("unlimited"), Budget("20GiB")):
        pipeline = opened(model, budget=budget)
        assert pipeline.plan_for(REQUEST).bus_bytes_per_step == 0
        assert pipeline.model.transformer_policy.mode == "none"


def test_int8_where_blocks_would_be_copied(model: ModelPaths, streaming: None) -> None:
    pipeline = opened(model, budget=Budget("20GiB"))
    pipeline.plan_for(REQUEST)
    assert pipeline.model.transformer_policy.mode == "int8"
    pipeline.plan_for(REQUEST, Budget("unlimited"))  # what was chosen stays
    assert pipeline.model.transformer_policy.mode == "int8"


def test_int8_where_the_weights_alone_are_too_large(model: ModelPaths, gpu: None) -> None:
    pipeline = opened(model, budget=Budget("2MiB"))
    with pytest.raises(BudgetTooSmall):
        pipeline.plan_for(REQUEST)
    assert pipeline.model.transformer_policy.mode == "int8"


def test_a_cpu_and_a_chosen_format_are_left_alone(
    model: ModelPaths, streaming: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted in ("file", "none", None):
        pipeline = opened(model, budget=Budget("20GiB"), transformer_quantization=wanted)
        pipeline.plan_for(REQUEST)
        assert pipeline.model.transformer_policy.mode == "none"
    monkeypatch.setattr(auto_mode, "DEVICES", ("cuda",))
    pipeline = opened(model, budget=Budget("20GiB"))
    pipeline.plan_for(REQUEST)
    assert pipeline.model.transformer_policy.mode == "none"


def test_the_choice_and_the_plan_are_said_first(
    model: ModelPaths, streaming: None, small_request: GenerationRequest
) -> None:
    pipeline = opened(model, budget=Budget("20GiB"))
    events = list(pipeline.generate(small_request))
    assert isinstance(events[0], Planned)
    said = "transformer int8 (auto: the file's own format would copy 14.40 GiB at each step), all blocks resident"
    assert events[0].message.startswith(said)
    assert "; peak " in events[0].message
    assert events[0].message.endswith("of 20.00 GiB, on cpu.")
    report = events[-1].result.as_json()  # type: ignore[union-attr]
    assert report["plan"] == events[0].message
    assert report["transformer_quantization"] == "int8"
