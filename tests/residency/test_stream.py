"""The orderings that streaming must keep, seen from a source that records what is asked of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ltx_a2v.errors import InvalidModel, OutOfMemory
from ltx_a2v.residency.layout import Layout, Part
from ltx_a2v.residency.ledger import Ledger, on_host
from ltx_a2v.residency.stream import BlockStream

CPU = torch.device("cpu")


class Recording:
    """Block i is filled with i; the order of fetches is kept."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fetched: list[int] = []
        self.fails_at = fails_at

    def fetch(self, index: int, flat: Tensor) -> None:
        if len(self.fetched) == self.fails_at:
            raise InvalidModel("the file ended")
        self.fetched.append(index)
        flat.view(torch.float32).fill_(index)

    def release(self) -> None:
        pass


def make(count: int, resident: set[int], slots: int, source: Recording) -> BlockStream:
    with on_host(), torch.device("meta"):
        blocks = [nn.Linear(8, 8, bias=False) for _ in range(count)]
        parts = [Part(block, ["weight"]) for block in blocks]
    for index in resident:
        parts[index].bind({"weight": nn.Parameter(torch.full((8, 8), float(index)), requires_grad=False)})
    return BlockStream(blocks, parts, source, frozenset(resident), CPU, slots)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.data())
def test_each_streamed_block_is_copied_once_per_sweep_and_computes_with_its_own_weights(
    count: int, slots: int, sweeps: int, data: st.DataObject
) -> None:
    resident = data.draw(st.sets(st.integers(0, count - 1)))
    source = Recording()
    stream = make(count, resident, slots, source)
    streamed = [i for i in range(count) if i not in resident]
    stream.begin(sweeps)
    for _ in range(sweeps):
        for index, block in enumerate(stream.sweep()):
            assert torch.equal(block.weight, torch.full((8, 8), float(index)))
    assert source.fetched == streamed * sweeps
    assert stream.copies == len(streamed) * sweeps
    stream.close()


def test_copies_are_issued_ahead_across_the_end_of_a_sweep_and_not_beyond_the_last() -> None:
    source = Recording()
    stream = make(3, set(), 2, source)
    stream.begin(2)
    seen = []
    for _ in range(2):
        for _block in stream.sweep():
            seen.append(list(source.fetched))
    assert seen[0] == [0, 1]  # block 1 is under way before block 0 computes
    assert seen[2] == [0, 1, 2, 0]  # and block 0 of the next sweep before block 2 does
    assert seen[-1] == [0, 1, 2] * 2


def test_a_read_that_fails_ends_the_sweep_and_the_next_works() -> None:
    source = Recording(fails_at=4)
    stream = make(3, set(), 2, source)
    stream.begin(3)
    with pytest.raises(InvalidModel, match="the file ended"):
        _ = [block for _ in range(3) for block in stream.sweep()]
    source.fails_at = None
    source.fetched.clear()
    stream.begin(1)
    assert [float(block.weight[0, 0]) for block in stream.sweep()] == [0.0, 1.0, 2.0]
    stream.close()


def test_closing_in_the_middle_leaves_no_memory() -> None:
    with Ledger() as ledger:
        stream = make(4, set(), 2, Recording())
        stream.begin(1)
        sweep = stream.sweep()
        block = next(sweep)
        assert ledger.live == 2 * 8 * 8 * 4
        sweep.close()
        stream.close()
        assert ledger.live == 0
    assert block.weight.is_meta


@given(
    st.lists(st.tuples(st.sampled_from([torch.int8, torch.bfloat16, torch.float32]), st.integers(1, 70)), max_size=6)
)
def test_layouts_hold_every_tensor_apart(tensors: list[tuple[torch.dtype, int]]) -> None:
    given_tensors = [(str(i), torch.randint(0, 9, (size,)).to(dtype)) for i, (dtype, size) in enumerate(tensors)]
    layout = Layout.of(given_tensors)
    views = layout.views(torch.zeros(layout.nbytes, dtype=torch.uint8))
    for name, tensor in given_tensors:
        views[name].copy_(tensor)
    for name, tensor in given_tensors:
        assert torch.equal(views[name], tensor)
        assert views[name].data_ptr() % 16 == 0


def test_the_ledger_counts_what_is_alive() -> None:
    with Ledger(limit=10_000) as ledger:
        a = torch.zeros(1000)
        b = a.view(10, 100)
        assert ledger.live == 4000
        with on_host():
            c = torch.zeros(10**6)
        assert ledger.live == 4000
        del a
        assert ledger.live == 4000  # its view holds it
        del b
        assert ledger.live == 0
        assert ledger.peak == 4000
        with pytest.raises(OutOfMemory, match="10,000"):
            torch.zeros(10**5)
    del c
