"""Reading ahead while the text encoder runs: same bytes, nothing left behind, whatever happens."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.conversion.convert import quantize_file
from ltx_a2v.errors import InvalidModel
from ltx_a2v.events import Done, PhaseStarted
from ltx_a2v.planning.plan import Plan
from ltx_a2v.residency.host_copies import HostBuffer, HostCopies
from ltx_a2v.residency.network import Placement
from ltx_a2v.settings.loading import LoadOptions

COPIED = Placement("host", 0)


@pytest.fixture(scope="module")
def stored(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    """The miniature in int8: copies in host memory hold what the file holds."""
    path = tmp_path_factory.mktemp("int8") / "int8.safetensors"
    list(quantize_file(model.checkpoint, "int8", path))
    return replace(model, checkpoint=path)


def opened(paths: ModelPaths, ahead: bool | None, mode: str | None = None) -> A2VPipeline:
    options = LoadOptions(mode, prompt_cache=False, read_ahead=ahead)
    return A2VPipeline.open(paths, device="cpu", options=options)


def placed(pipeline: A2VPipeline, request: GenerationRequest, placement: Placement) -> Plan:
    return replace(pipeline.plan(request), placements=dict.fromkeys(pipeline.model.networks, placement))


def made(pipeline: A2VPipeline, request: GenerationRequest, placement: Placement) -> tuple[bytes, float]:
    """The video, and the GiB that were read ahead."""
    *_, done = pipeline.generate(request, placed(pipeline, request, placement))
    assert isinstance(done, Done)
    return done.result.output_path.read_bytes(), done.result.details["read_ahead"]["gib"]


def reader_is_there() -> bool:
    return any(thread.name == "read-ahead" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_reader_is_left() -> object:
    yield
    assert not reader_is_there()


@pytest.fixture
def slow_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread gets the time that it has at full size."""
    from ltx_a2v.prompts import encoder

    compute = encoder.compute_contexts

    def slowly(*arguments: object) -> object:
        deadline = time.monotonic() + 10
        while reader_is_there() and time.monotonic() < deadline:
            time.sleep(0.01)
        return compute(*arguments)

    monkeypatch.setattr(encoder, "compute_contexts", slowly)


@pytest.mark.usefixtures("slow_text_encoder")
@pytest.mark.parametrize("placement", [COPIED, Placement("file", 1), Placement("device")])
@pytest.mark.parametrize("mode", [None, "int8"], ids=["stored", "converted"])
def test_same_bytes_with_and_without(
    model: ModelPaths, stored: ModelPaths, small_request: GenerationRequest, placement: Placement, mode: str | None
) -> None:
    paths = stored if mode is None else model
    without, nothing = made(opened(paths, ahead=False, mode=mode), small_request, placement)
    assert nothing == 0
    pipeline = opened(paths, ahead=True, mode=mode)
    for _ in range(2):
        video, gib = made(pipeline, small_request, placement)
        assert video == without
    assert gib == 0  # the second time everything is in host memory


@pytest.mark.usefixtures("slow_text_encoder")
def test_copies_are_filled_before_the_phases_ask_for_them(
    stored: ModelPaths, small_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once from the file, by the thread: the copy counts as planned."""
    filled: list[str] = []
    fill = HostCopies.fill
    monkeypatch.setattr(HostCopies, "fill", lambda self, piece: (filled.append(piece.name), fill(self, piece)))
    pipeline = opened(stored, ahead=True)
    made(pipeline, small_request, COPIED)
    assert {f"transformer_blocks.{i}" for i in range(4)} <= set(filled)
    network = pipeline.model.networks["transformer"]
    assert network.host_bytes == pipeline.model.sizes["transformer"].in_host(COPIED)


def test_by_default_only_on_a_gpu(stored: ModelPaths, small_request: GenerationRequest) -> None:
    for event in opened(stored, ahead=None).generate(small_request):
        assert not reader_is_there(), event


@pytest.mark.parametrize("phase", ["load_audio", "encode_prompt", "stage_1"])
def test_a_cancel_leaves_no_thread_and_no_memory_that_holds_nothing(
    stored: ModelPaths, small_request: GenerationRequest, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[HostBuffer] = set()
    make, release = HostBuffer.__init__, HostBuffer.release
    monkeypatch.setattr(HostBuffer, "__init__", lambda self, *n, **how: (alive.add(self), make(self, *n, **how))[1])
    monkeypatch.setattr(HostBuffer, "release", lambda self: (alive.discard(self), release(self))[1])
    pipeline = opened(stored, ahead=True)
    events = pipeline.generate(small_request, placed(pipeline, small_request, COPIED))
    next(event for event in events if isinstance(event, PhaseStarted) and event.phase == phase)
    events.close()
    assert not reader_is_there()
    assert sum(buffer.flat.numel() for buffer in alive) == pipeline.model.host_bytes
    pipeline.release()
    assert not alive
    assert made(pipeline, small_request, COPIED)[0]


@pytest.mark.usefixtures("slow_text_encoder")
def test_a_file_that_cannot_be_read_is_reported_by_the_phase_that_needs_it(
    stored: ModelPaths, small_request: GenerationRequest, tmp_path: Path
) -> None:
    path = tmp_path / "ltx.safetensors"
    path.write_bytes(stored.checkpoint.read_bytes())
    pipeline = opened(replace(stored, checkpoint=path), ahead=True)
    events = pipeline.generate(small_request, placed(pipeline, small_request, COPIED))
    path.write_bytes(b"")
    with pytest.raises(InvalidModel, match=r"ltx\.safetensors"):
        list(events)


def test_preparing_reads_ahead_too(stored: ModelPaths, small_request: GenerationRequest) -> None:
    options = LoadOptions(prompt_cache=False, read_ahead=True, keep="device")
    pipeline = A2VPipeline.open(stored, device="cpu", options=options)
    pipeline.prepare(small_request)
    assert all(network.on_device for network in pipeline.model.networks.values())
