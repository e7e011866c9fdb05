"""The CUDA form of the orderings, on streams and events that note what comes after what."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_a2v.errors import InvalidModel
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.sync import CudaSync, InOrderSync, sync_for
from tests.residency.recording import FakeGpu
from tests.residency.test_stream import Recording, make

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


class OnGpu(Recording):
    """A source whose copies are operations of the fake GPU: `came_after` has what each follows."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.came_after: list[tuple[int, set[object]]] = []

    def fetch(self, piece: Piece, flat: torch.Tensor) -> None:
        index = int(piece.name)
        self.came_after.append((index, self.gpu.work(("copy", len(self.fetched), index))))
        super().fetch(piece, flat)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3))
def test_cuda_streams_wait_for_each_other(count: int, slots: int, sweeps: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        gpu = FakeGpu(patch)
        source = OnGpu(gpu)
        stream = make(count, set(), slots, source, CudaSync(CUDA, min(slots, count)))
        stream.begin(sweeps)
        for sweep in range(sweeps):
            for index, _block in enumerate(stream.sweep()):
                before = gpu.work(("compute", sweep, index))
                copies = [operation for operation in before if operation[0] == "copy" and operation[2] == index]
                assert len(copies) == sweep + 1, "copy before compute"
        stream.close()
        last_of_slot: dict[int, tuple[int, int]] = {}
        visits = dict.fromkeys(range(count), 0)
        for index, before in source.came_after:
            slot = index % min(slots, count)
            if slot in last_of_slot:
                assert ("compute", *last_of_slot[slot]) in before, "compute before reuse"
            last_of_slot[slot] = visits[index], index
            visits[index] += 1
        assert len(gpu.synchronized) == 1  # before the slots' memory is freed


def test_what_a_copy_raises_comes_out_where_its_block_would_compute(gpu: FakeGpu) -> None:
    sync = CudaSync(CUDA, 1)

    def fails() -> None:
        raise InvalidModel("the file ended")

    sync.copy(0, fails)
    with pytest.raises(InvalidModel, match="the file ended"):
        sync.wait_for_copy(0)
    sync.close()


def test_settling_drops_what_has_not_begun_and_waits_for_what_has(gpu: FakeGpu) -> None:
    sync, begun, go_on, done = CudaSync(CUDA, 2), threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert go_on.wait(10)
        done.append("first")
        raise InvalidModel("of no interest to anybody any more")

    sync.copy(0, slow)
    sync.copy(1, lambda: done.append("second"))
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    sync.settle()
    assert done == ["first"]
    sync.copy(1, lambda: done.append("third"))
    sync.wait_for_copy(1)
    assert done == ["first", "third"]
    sync.close()
    assert not list(_threads())


def test_a_cpu_copies_in_order() -> None:
    assert isinstance(sync_for(torch.device("cpu"), 2), InOrderSync)


def _threads() -> Iterator[str]:
    return (thread.name for thread in threading.enumerate() if thread.name.startswith("block-copies"))
