"""One video by two processes on the CPU: the same result, and what happens when one of them fails.

Starting a process takes seconds, so all tests use one pair.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v.diffusion.forward import StageForward
from ltx_a2v.errors import InvalidRequest, WorkerFailed
from ltx_a2v.events import Notice, StepFinished
from ltx_a2v.parallel import helpers
from tests.conftest import ROOT
from tests.test_reference import AS_IT_IS, CASES, RECORDED, relative


@pytest.fixture(scope="module")
def pair(model: ModelPaths) -> Iterator[A2VPipeline]:
    with A2VPipeline.open(model, devices=["cpu", "cpu"]) as pipeline:
        yield pipeline


def latents(pipeline: A2VPipeline, request: GenerationRequest, file: Path) -> dict[str, torch.Tensor]:
    pipeline.run(request.model_copy(update={"save_latents": file}))
    return load_file(file)


def helper(pipeline: A2VPipeline) -> int:
    assert pipeline._helpers is not None
    pipeline._helpers.start()
    (process,) = pipeline._helpers._processes
    return process.pid


def test_the_result_is_that_of_one_process_and_the_same_bytes_every_time(
    pair: A2VPipeline, pipeline: A2VPipeline, small_request: GenerationRequest, tmp_path: Path
) -> None:
    alone = latents(pipeline, small_request, tmp_path / "alone")
    together = latents(pair, small_request, tmp_path / "together")
    for stage, expected in alone.items():
        assert relative(together[stage], expected) < 1e-5, stage
    again = latents(pair, small_request, tmp_path / "again")
    assert all(torch.equal(again[stage], together[stage]) for stage in together)


def test_two_processes_equal_the_reference(pair: A2VPipeline, tmp_path: Path) -> None:
    case = {**CASES["guided"], "guidance": Guidance(**CASES["guided"]["guidance"])}
    case |= {file: ROOT / "examples" / case[file] for file in ("audio", "image")}
    request = GenerationRequest(**case, **AS_IT_IS, output_path=tmp_path / "video.mp4")
    result = latents(pair, request, tmp_path / "latents")
    expected = load_file(RECORDED / "guided.safetensors")
    assert relative(result["stage_1"], expected["stage_1"]) < 1e-4
    assert relative(result["stage_2"], expected["stage_2"]) < 5e-3


def test_both_use_one_copy_in_host_memory(
    pair: A2VPipeline, small_request: GenerationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_file = latents(pair, small_request, tmp_path / "from_file")
    monkeypatch.setattr(pair, "keep", "host")
    copies = pair.model.sizes["transformer"].in_host(pair.plan(small_request).placements["transformer"])
    copied, again = (latents(pair, small_request, tmp_path / name) for name in ("copied", "again"))

    assert all(torch.equal(copied[stage], from_file[stage]) for stage in from_file)
    assert all(torch.equal(again[stage], from_file[stage]) for stage in from_file)
    assert 0 < copies <= pair.model.networks["transformer"].host_bytes < 1.2 * copies
    for pid in (os.getpid(), helper(pair)):
        assert "ltx-a2v host copies" in Path(f"/proc/{pid}/maps").read_text()
    pair.release()
    assert pair.model.networks["transformer"].host_bytes == 0


def test_a_cancelled_video_frees_the_helper_for_the_next_one(
    pair: A2VPipeline, small_request: GenerationRequest
) -> None:
    process = helper(pair)
    with closing(pair.generate(small_request)) as events:
        assert any(isinstance(event, StepFinished) and event.phase == "stage_1" for event in events)
    assert pair.run(small_request).num_frames == 9
    assert helper(pair) == process


def test_out_of_memory_in_one_process_is_a_smaller_plan_for_both(
    pair: A2VPipeline, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, failures = StageForward.velocities, [torch.OutOfMemoryError("CUDA out of memory.")]

    def failing(*given: object) -> object:
        if failures:
            raise failures.pop()
        return forward(*given)  # type: ignore[arg-type]

    before = pair.run(small_request).details["helpers"][0]["plan"]
    monkeypatch.setattr(StageForward, "velocities", failing)
    *events, done = pair.generate(small_request)
    assert any(isinstance(event, Notice) and "trying again within" in event.message for event in events)
    assert "no limit" in before
    assert "no limit" not in done.result.details["helpers"][0]["plan"]


def test_a_video_of_one_pass_is_refused(pair: A2VPipeline, small_request: GenerationRequest) -> None:
    with pytest.raises(
        InvalidRequest, match=r"gpus_per_clip 2 is more than the passes of this video, 1 \(quality fast"
    ):
        pair.run(small_request.model_copy(update={"quality": "fast"}))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "on cpu was killed by SIGKILL"),
        pytest.param(signal.SIGSTOP, "on cpu has not answered for 2 s", marks=pytest.mark.slow),
    ],
)
def test_a_helper_that_dies_or_hangs_ends_the_video_and_the_next_one_works(
    pair: A2VPipeline,
    small_request: GenerationRequest,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    says: str,
) -> None:
    """The video after a death is made at the begin of the second case, as a new helper takes seconds to start."""
    if number is signal.SIGSTOP:
        pair.run(small_request).output_path.unlink()
        monkeypatch.setattr(helpers, "SILENCE_SECONDS", 2.0)
    process = helper(pair)
    with pytest.raises(WorkerFailed, match=says):  # noqa: PT012
        for event in pair.generate(small_request):
            if isinstance(event, StepFinished) and event.phase == "stage_1":
                os.kill(process, number)
    assert not Path(f"/proc/{process}").exists()
    assert not small_request.output_path.exists()
