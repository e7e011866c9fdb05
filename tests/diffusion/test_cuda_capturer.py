"""What the capturer asks of CUDA, in which order, without a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from ltx_a2v.diffusion import graphs
from ltx_a2v.diffusion.graphs import CudaCapturer


class FakeGraph:
    """Notes its calls; `fails` names those that fail, as CUDA does after an error in a capture."""

    fails: frozenset[str] = frozenset()
    calls: list[str]

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        self._note("begin")

    def capture_end(self) -> None:
        self._note("end")

    def replay(self) -> None:
        self._note("replay")

    def reset(self) -> None:
        self._note("reset")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.fails:
            raise RuntimeError(f"CUDA error: out of memory in {call}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(FakeGraph, "calls", calls, raising=False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr(graphs, "capture_stream", lambda _: None)
    monkeypatch.setattr(graphs, "_abandoned", [])
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: calls.append(f"end pool {given}"))
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *given: calls.append(f"release pool {given}"))
    return calls


def test_captured_and_replayed_and_released_after_the_device_has_finished(calls: list[str]) -> None:
    capturer = CudaCapturer(torch.device("cuda:1"))
    replay = capturer.capture(lambda: calls.append("work"))
    assert calls == ["begin", "work", "end"]
    replay()
    capturer.release()
    assert calls[3:] == ["replay", "synchronize", "reset", "empty_cache"]


def test_a_capture_that_fails_is_ended_in_torchs_allocator_too(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the allocator never gives back memory again."""
    capturer = CudaCapturer(torch.device("cuda:1"))
    monkeypatch.setattr(FakeGraph, "fails", frozenset({"end"}))

    def refused() -> None:
        raise ValueError("work failed")

    with pytest.raises(ValueError, match="work failed"):
        capturer.capture(refused)
    assert calls == ["begin", "end", "end pool (1, 'pool')", "release pool (1, 'pool')", "reset"]
    assert len(graphs._abandoned) == 1
    calls.clear()
    monkeypatch.setattr(FakeGraph, "fails", frozenset())
    capturer.capture(lambda: None)()
    assert calls == ["begin", "end", "replay"]


def test_a_replay_without_memory_is_an_error_that_is_tried_again(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = CudaCapturer(torch.device("cuda:1")).capture(lambda: None)
    monkeypatch.setattr(FakeGraph, "fails", frozenset({"replay"}))
    with pytest.raises(torch.OutOfMemoryError, match="in replay"):
        replay()
    assert calls[-1] == "replay"
