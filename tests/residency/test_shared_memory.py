"""Host copies of two processes, here two connections of one: filled once, used by both."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ltx_a2v.residency.host_copies import HostCopies
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.shared_memory import SharedMemory, memory_file

CPU = torch.device("cpu")


class Files:
    """A source that counts, and can be damaged."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.error: Exception | None = None

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        if self.error is not None:
            raise self.error
        self.read.append(piece.name)
        flat.fill_(len(self.read))


@pytest.fixture
def pieces() -> list[Piece]:
    module = nn.ModuleDict({"a": nn.Linear(40, 50), "b": nn.Linear(3, 5)})
    return [Piece(name, module, [f"{name}.weight", f"{name}.bias"]) for name in ("a", "b")]


@pytest.fixture
def two(pieces: list[Piece]) -> Iterator[list[SharedMemory]]:
    fd = memory_file()
    assert fd is not None
    memories = [SharedMemory(fd) for _ in range(2)]
    os.close(fd)
    for memory in memories:
        memory.lay_out(pieces)
    yield memories
    for memory in memories:
        memory.close()


def fetched(copies: HostCopies, piece: Piece) -> set[int]:
    flat = torch.zeros(piece.nbytes, dtype=torch.uint8)
    copies.fetch(piece, flat)
    return set(flat.tolist())


def test_a_piece_is_read_once_for_both(two: list[SharedMemory], pieces: list[Piece]) -> None:
    files = Files()
    first, second = (HostCopies(files, CPU, memory).copying(pieces) for memory in two)
    assert [fetched(first, piece) for piece in pieces] == [{1}, {2}]
    assert [fetched(second, piece) for piece in pieces] == [{1}, {2}]
    assert files.read == ["a", "b"]
    assert second.nbytes == sum(piece.nbytes for piece in pieces)
    assert two[0].nbytes == two[1].nbytes


def test_reading_ahead_fills_for_both(two: list[SharedMemory], pieces: list[Piece]) -> None:
    files = Files()
    first, second = (HostCopies(files, CPU, memory).copying(pieces) for memory in two)
    first.fill(pieces[0])
    second.fill(pieces[0])
    assert files.read == ["a"]
    assert fetched(second, pieces[0]) == {1}


def test_a_copy_that_failed_is_filled_by_the_next(two: list[SharedMemory], pieces: list[Piece]) -> None:
    files = Files()
    first, second = (HostCopies(files, CPU, memory).copying(pieces) for memory in two)
    files.error = OSError("unreadable")
    with pytest.raises(OSError, match="unreadable"):
        fetched(first, pieces[0])
    files.error = None
    assert fetched(second, pieces[0]) == {1}
    assert fetched(first, pieces[0]) == {1}


def test_cleared_memory_is_free_and_can_be_filled_again(two: list[SharedMemory], pieces: list[Piece]) -> None:
    files = Files()
    first = HostCopies(files, CPU, two[0]).copying(pieces)
    fetched(first, pieces[0])
    assert two[1].nbytes > pieces[0].nbytes
    first.release()
    two[0].clear()
    assert two[1].nbytes == 0
    assert fetched(first.copying(pieces), pieces[0]) == {2}


def test_other_pieces_or_files_are_not_shared(two: list[SharedMemory], pieces: list[Piece]) -> None:
    other = Piece("a", nn.ModuleDict({"a": nn.Linear(40, 50).half()}), ["a.weight", "a.bias"])
    fd = os.open(f"/proc/self/fd/{two[0]._fd}", os.O_RDWR)
    elsewhere = SharedMemory(fd, "another file")
    assert not two[1].lay_out([other, pieces[1]]), "of another format"
    assert not elsewhere.lay_out(pieces)
    assert two[1].lay_out(pieces)
    os.ftruncate(fd, 0)
    assert elsewhere.lay_out(pieces), "nobody uses it any more"
    elsewhere.close()
    os.close(fd)
