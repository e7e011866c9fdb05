"""Streams for captures and copies never collide, though torch gives the same few in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

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
