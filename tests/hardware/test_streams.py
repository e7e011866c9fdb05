"""Streams for captures and copies never collide, though torch gives the same few in turn; work on another GPU."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest
from ltx_a2v.hardware import streams

GPU = torch.device("cuda:1")


@pytest.fixture
def four_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's pool, with numbers for streams: 0 to 3, then again."""
    numbers = itertools.cycle(range(4))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(numbers))
    streams.capture_stream.cache_clear()
    yield
    streams.capture_stream.cache_clear()


def test_the_capture_stream_is_made_once(four_streams: None) -> None:
    assert streams.capture_stream(GPU) == streams.capture_stream(GPU)


def test_copies_never_get_the_capture_stream(four_streams: None) -> None:
    copies = [streams.side_stream(GPU) for _ in range(9)]
    assert streams.capture_stream(GPU) not in copies


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The current device, last: as `torch.cuda.device` would set it."""
    devices = [torch.device("cuda:0")]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        devices.append(wanted)
        yield
        devices.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    return devices


def test_work_is_done_on_its_own_device_and_the_caller_keeps_theirs(current: list[torch.device]) -> None:
    seen: list[torch.device] = []

    def work() -> Generator[int]:
        try:
            for item in range(3):
                seen.append(current[-1])
                yield item
        finally:
            seen.append(current[-1])

    with closing(streams.each_on_device(work(), GPU)) as items:
        for _, item in zip(range(2), items, strict=False):
            assert current == [torch.device("cuda:0")], item
    assert seen == [GPU] * 3  # two items, and the clean-up
    assert current == [torch.device("cuda:0")]


def test_a_pipeline_works_on_its_own_device(
    current: list[torch.device],
    pipeline: A2VPipeline,
    small_request: GenerationRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a model that says it is on another GPU, as far as the first thing that asks CUDA."""
    asked: list[torch.device] = []

    def free(_: torch.device) -> tuple[int, int]:
        asked.append(current[-1])
        raise ArithmeticError

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(pipeline, "model", replace(pipeline.model, device=GPU))
    for ask in (lambda: next(pipeline.generate(small_request)), lambda: pipeline.plan(small_request), pipeline.prepare):
        with pytest.raises(ArithmeticError):
            ask()
    assert asked == [GPU] * 3
