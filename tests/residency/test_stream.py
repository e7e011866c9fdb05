"""The orderings that streaming must keep, seen from a source that records what is asked of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ltx_a2v.errors import InvalidModel, OutOfMemory
from ltx_a2v.residency.ledger import Ledger, on_host
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.residency.sync import StreamSync
from tests.residency.recording import RecordingSync

CPU = torch.device("cpu")


class Recording:
    """Block i is filled with i; the order of fetches is kept."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fetched: list[int] = []
        self.fails_at = fails_at

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        index = int(piece.name)
        if len(self.fetched) == self.fails_at:
            raise InvalidModel("the file ended")
        self.fetched.append(index)
        flat.view(torch.float32).fill_(index)


def make(count: int, resident: set[int], slots: int, source: Recording, sync: StreamSync | None = None) -> BlockStream:
    with on_host(), torch.device("meta"):
        module = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(count))
        rest, pieces = Piece("", module, []), [Piece(str(i), module, [f"{i}.weight"]) for i in range(count)]
    for index in resident:
        pieces[index].bind(torch.full((8, 8), float(index)).flatten().view(torch.uint8))
    return BlockStream(module, rest, pieces, source, frozenset(resident), CPU, slots, sync)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_each_streamed_block_is_copied_once_per_sweep_and_computes_with_its_own_weights(
    count: int, slots: int, sweeps: int, late: bool, data: st.DataObject
) -> None:
    """Copied as early as `begin` and `leave` ask for it, or as late as waiting allows."""
    resident = data.draw(st.sets(st.integers(0, count - 1)))
    source = Recording()
    stream = make(count, resident, slots, source, RecordingSync() if late else None)
    streamed = [i for i in range(count) if i not in resident]
    stream.begin(sweeps)
    for _ in range(sweeps):
        for index, block in enumerate(stream.sweep()):
            assert torch.equal(block.weight, torch.full((8, 8), float(index)))
    assert sorted(source.fetched) == sorted(streamed * sweeps)
    assert stream.copies == len(streamed) * sweeps
    stream.close()


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_every_other_slot_is_filled_ahead_and_nothing_beyond_the_last_sweep(
    count: int, slots: int, sweeps: int
) -> None:
    sync = RecordingSync()
    stream = make(count, set(), slots, Recording(), sync)
    slots = min(slots, count)
    stream.begin(sweeps)
    left = [0] * slots
    visits = [len(range(slot, count, slots)) * sweeps for slot in range(slots)]
    for _ in range(sweeps):
        for index, _block in enumerate(stream.sweep()):
            assert len(sync.issued) == sum(min(visits[slot], left[slot] + 1) for slot in range(slots))
            left[index % slots] += 1
    assert len(sync.issued) == count * sweeps
    assert len(sync.calls) == 3 * count * sweeps
    stream.close()


def test_a_copy_is_issued_before_the_block_before_it_computes_also_across_the_end_of_a_sweep() -> None:
    source = Recording()
    stream = make(4, set(), 2, source)
    stream.begin(2)
    seen = []
    for _ in range(2):
        for _block in stream.sweep():
            seen.append(list(source.fetched))
    assert seen[0] == [0, 1]
    assert seen[3] == [0, 1, 2, 3, 0]
    assert seen[-1] == [0, 1, 2, 3] * 2


def test_a_block_keeps_its_slot() -> None:
    """Else what was captured with its addresses would compute with another block's weights in the next sweep."""
    stream = make(3, set(), 2, Recording())
    stream.begin(3)
    addresses = [[block.weight.data_ptr() for block in stream.sweep()] for _ in range(3)]
    assert addresses[0] == addresses[1] == addresses[2]
    assert addresses[0][0] == addresses[0][2] != addresses[0][1]
    stream.close()


def test_with_an_odd_number_of_blocks_the_other_slot_is_filled_while_the_last_block_computes() -> None:
    source = Recording()
    stream = make(3, set(), 2, source)
    stream.begin(2)
    seen = []
    for _block in stream.sweep():
        seen.append(list(source.fetched))
    assert seen[-1] == [0, 1, 2, 1]  # block 0 has the last block's slot
    stream.close()


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
def test_a_piece_holds_every_tensor_apart_and_gives_its_memory_back(tensors: list[tuple[torch.dtype, int]]) -> None:
    given_tensors = {f"t{i}": torch.randint(0, 9, (size,)).to(dtype) for i, (dtype, size) in enumerate(tensors)}
    module = nn.Module()
    for name, tensor in given_tensors.items():
        module.register_buffer(name, torch.empty_like(tensor, device="meta"))
    piece = Piece("", module, given_tensors)
    flat = torch.zeros(piece.nbytes, dtype=torch.uint8)
    for name, view in piece.views(flat).items():
        view.copy_(given_tensors[name])
    piece.bind(flat)
    for name, tensor in given_tensors.items():
        assert torch.equal(module.get_buffer(name), tensor)
        assert module.get_buffer(name).data_ptr() % 16 == 0
    piece.unbind()
    assert all(buffer.is_meta for buffer in module.buffers())


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
