"""A device that runs out of memory in the middle: once again with less, then an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.errors import OutOfMemory
from ltx_a2v.events import Done, Event, Notice
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.planning.plan import Plan
from ltx_a2v.settings.loading import LoadOptions


def crowded(
    model: ModelPaths, monkeypatch: pytest.MonkeyPatch, budget: str, failures: int
) -> tuple[A2VPipeline, list[Plan]]:
    """A pipeline whose first attempts fail as CUDA does, and the plans of all of them."""
    pipeline = A2VPipeline.open(
        model, device="cpu", options=LoadOptions("int8", budget=Budget(budget), prompt_cache=False)
    )
    plans: list[Plan] = []
    generate = pipeline._generate

    def failing(fitted: object, plan: Plan, log: object) -> Iterator[Event]:
        plans.append(plan)
        events = generate(fitted, plan, log)  # type: ignore[arg-type]
        yield next(events)
        if len(plans) <= failures:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        yield from events

    monkeypatch.setattr(pipeline, "_generate", failing)
    return pipeline, plans


@pytest.mark.parametrize("budget", ["unlimited", "120MiB"])
def test_tried_again_with_a_smaller_plan(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch, budget: str
) -> None:
    pipeline, plans = crowded(model, monkeypatch, budget, failures=1)
    *events, done = pipeline.generate(small_request)
    first, second = plans
    assert second.budget is not None
    assert second.budget == max(int(0.9 * (first.budget or first.peak)), first.smallest)
    assert second.peak <= second.budget
    assert isinstance(done, Done)
    assert any(isinstance(e, Notice) and "trying again" in e.message for e in events)


def test_a_second_failure_is_the_users_to_mend_and_leaves_nothing(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline, plans = crowded(model, monkeypatch, "unlimited", failures=2)
    with pytest.raises(OutOfMemory, match="also with a smaller plan; free some, or reduce"):
        pipeline.run(small_request)
    assert not list(tmp_path.glob("video*"))
    assert pipeline.run(small_request).output_path.exists()  # it stays usable
    assert len(plans) == 3
