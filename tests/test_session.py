"""What is around the method: preparing, planning without files, plans that are given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.errors import BudgetTooSmall, InvalidRequest, OutOfMemory
from ltx_a2v.events import Done
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.residency.network import Network
from ltx_a2v.settings.loading import LoadOptions


def failing_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "ran out of memory, while the weights were loaded"),
        (MemoryError(), "host's memory is used up"),
    ],
)
def test_preparing_without_enough_memory_is_one_sentence_and_gives_everything_back(
    model: ModelPaths, monkeypatch: pytest.MonkeyPatch, error: BaseException, says: str
) -> None:
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions(keep="device"))
    with monkeypatch.context() as patched:
        patched.setattr(Network, "preload", failing_with(error))
        with pytest.raises(OutOfMemory, match=says):
            pipeline.prepare()
    assert not any(network.on_device for network in pipeline.model.networks.values())
    assert pipeline.prepare().keep == "device"  # it stays usable
    pipeline.release()


def test_preparing_keeps_the_budget(model: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    monkeypatch.setattr("ltx_a2v.session.capped", recording(limits))
    options = LoadOptions(keep="host", budget=Budget("2GiB"))
    A2VPipeline.open(model, device="cpu", options=options).prepare()
    assert limits == [2 * 2**30]


def test_generating_keeps_the_budget(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int | None] = []
    monkeypatch.setattr("ltx_a2v.session.capped", recording(limits))
    A2VPipeline.open(model, device="cpu", options=LoadOptions(budget=Budget("2GiB"))).run(small_request)
    assert limits == [2 * 2**30]


def test_without_a_gpu_more_memory_than_there_is_is_refused_before_anything_is_read(
    model: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx_a2v.session.host_memory_total", lambda: 2**20)
    with pytest.raises(BudgetTooSmall, match=r"No GPU is used, and on the CPU .* more than the host's 1\.0 MiB"):
        list(A2VPipeline.open(model, device="cpu").generate(small_request))
    assert not small_request.output_path.exists()
    within = A2VPipeline.open(model, device="cpu", options=LoadOptions(budget=Budget("2GiB")))
    assert isinstance(list(within.generate(small_request))[-1], Done)


def recording(limits: list[int | None]) -> Callable[..., object]:
    def capped(_: torch.device, limit: int | None) -> object:
        limits.append(limit)
        return nullcontext()

    return capped


def test_a_plan_without_files_needs_a_number_of_frames(pipeline: A2VPipeline) -> None:
    request = GenerationRequest(prompt="", audio=Path("nowhere.wav"))
    for ask in (pipeline.plan_for, pipeline.measure):
        with pytest.raises(InvalidRequest, match=r"num_frames 'auto' depends on the audio"):
            ask(request)


def test_a_plan_that_is_given_is_used(pipeline: A2VPipeline, small_request: GenerationRequest) -> None:
    smaller = pipeline.plan(small_request, Budget("100MiB"))
    *_, done = pipeline.generate(small_request, smaller)
    assert isinstance(done, Done)
    assert done.result.peak_vram_gib * 2**30 <= 100 * 2**20  # of which a CPU's ledger keeps account
    assert done.result.peak_vram_gib > 0
    assert pipeline.run(small_request).peak_vram_gib == 0  # without a limit there is no ledger
