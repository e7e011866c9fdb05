"""Whatever the threads do, the caller sees the file's tensors, in order, and no more memory than was promised."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx_a2v.checkpoint import reader
from ltx_a2v.checkpoint.dtypes import DTYPES
from ltx_a2v.checkpoint.reader import read_bytes, read_tensor, stream_tensors
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.errors import InvalidModel
from ltx_a2v.settings.defaults import READ_CHUNK_BYTES

MIB = 2**20
ODD_SHAPES = [(), (0,), (1,), (3, 0, 2), (7,), (1, 1), (33, 5), (1021,), (64, 129)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def random_bits(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Every bit pattern, NaNs included; booleans hold 0 and 1 only."""
    top = 2 if dtype == torch.bool else 256
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, top, (size,), dtype=torch.uint8).view(dtype).view(shape)


def same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = a.cpu(), b.cpu()
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def entries_of(*paths: Path) -> dict[str, TensorEntry]:
    return {name: entry for path in paths for name, entry in SafetensorsFile.open(path).tensors.items()}


def sparse(path: Path, count: int, nbytes: int) -> Path:
    """`count` tensors of zeros that take no room on the disk: t000, t001, …"""
    header = {
        f"t{i:03}": {"dtype": "U8", "shape": [nbytes], "data_offsets": [i * nbytes, (i + 1) * nbytes]}
        for i in range(count)
    }
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + count * nbytes)
    return path


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-tensors")]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """So that small files are cut as large ones are."""
    monkeypatch.setattr(reader, "READ_CHUNK_BYTES", 1000)
    return 1000


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {f"{key}.{i}": random_bits(shape, DTYPES[key]) for i, shape in enumerate(ODD_SHAPES) for key in DTYPES}
    save_file(tensors, tmp_path / "odd.safetensors")
    return tmp_path / "odd.safetensors"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_equals_the_safetensors_package(odd_file: Path, threads: int | None, device: str, small_chunks: int) -> None:
    expected, entries = load_file(odd_file), entries_of(odd_file)
    streamed = dict(stream_tensors(entries, torch.device(device), threads=threads))
    assert streamed.keys() == expected.keys()
    for name, tensor in streamed.items():
        assert tensor.device.type == device
        assert same_bits(tensor, expected[name]), name
        assert same_bits(read_tensor(entries[name]), expected[name]), name


@pytest.mark.parametrize("device", DEVICES)
def test_a_tensor_of_several_full_chunks_between_small_ones(tmp_path: Path, device: str) -> None:
    tensors = {"a": torch.arange(3), "b": torch.arange(3 * READ_CHUNK_BYTES // 4 + 77, dtype=torch.int32)}
    tensors |= {f"c{i:04}": torch.full((3,), i, dtype=torch.int16) for i in range(3000)}  # more than one call can fill
    save_file(tensors, tmp_path / "x.safetensors")
    streamed = dict(stream_tensors(entries_of(tmp_path / "x.safetensors"), torch.device(device)))
    assert all(same_bits(streamed[name], tensor) for name, tensor in tensors.items())
    assert len(streamed) == len(tensors)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=40),
    left_out=st.sets(st.integers(0, 39)),
    chunk=st.integers(1, 64),
    threads=st.integers(1, 5),
)
def test_any_cut(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], left_out: set[int], chunk: int, threads: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    tensors = {f"t{i}": random_bits((size,), torch.uint8) for i, size in enumerate(sizes)}
    save_file(tensors, path)
    wanted = {name: entry for name, entry in entries_of(path).items() if int(name[1:]) not in left_out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "READ_CHUNK_BYTES", chunk)
        streamed = dict(stream_tensors(wanted, threads=threads))
    assert streamed.keys() == wanted.keys()
    assert all(torch.equal(streamed[name], tensors[name]) for name in wanted)


def test_file_order_whatever_the_order_of_the_names(tmp_path: Path, small_chunks: int) -> None:
    for file in "ab":
        save_file({f"{file}{i}": torch.full((i * 400,), i) for i in range(6)}, tmp_path / f"{file}.safetensors")
    entries = entries_of(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    shuffled = dict(sorted(entries.items(), key=lambda item: item[0][::-1]))
    places = [(entries[name].path, entries[name].offset) for name, _ in stream_tensors(shuffled)]
    assert places == sorted(places)
    assert len(places) == 12


def test_one_tensor_under_two_names(tmp_path: Path, small_chunks: int) -> None:
    save_file({"embed": torch.arange(500)}, tmp_path / "x.safetensors")
    entry = entries_of(tmp_path / "x.safetensors")["embed"]
    streamed = dict(stream_tensors({"embed": entry, "head": entry}))
    assert torch.equal(streamed["embed"], torch.arange(500))
    assert torch.equal(streamed["head"], torch.arange(500))
    streamed["head"].zero_()
    assert streamed["embed"][1] == 1


def test_each_tensor_has_memory_of_its_own(odd_file: Path) -> None:
    for _, tensor in stream_tensors(entries_of(odd_file)):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_nothing_to_read() -> None:
    assert list(stream_tensors({})) == []


def test_streams_side_by_side(odd_file: Path, small_chunks: int) -> None:
    entries = entries_of(odd_file)
    expected = load_file(odd_file)
    for (a, one), (b, other) in zip(stream_tensors(entries), stream_tensors(entries, threads=1), strict=True):
        assert a == b
        assert same_bits(one, other)
        assert same_bits(one, expected[a])


def taken_before_the_end(stream: Iterator[tuple[str, Tensor]]) -> list[str]:
    names = []
    with pytest.raises(InvalidModel) as error:  # noqa: PT012
        for name, _ in stream:
            names.append(name)
    assert "\n" not in str(error.value)
    return names


def test_closing_early_stops_the_threads(tmp_path: Path) -> None:
    stream = stream_tensors(entries_of(sparse(tmp_path / "x.safetensors", 40, 4 * MIB)), threads=3)
    assert next(stream)[0] == "t000"
    assert readers()
    stream.close()  # type: ignore[attr-defined]
    assert not readers()


def test_a_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    """What had been read ahead still comes, nothing that was not in the file does, and nobody keeps waiting."""
    path = sparse(tmp_path / "x.safetensors", 40, READ_CHUNK_BYTES)
    stream = stream_tensors(entries_of(path), threads=2)
    assert next(stream)[0] == "t000"
    os.truncate(path, 10 * READ_CHUNK_BYTES)
    names = taken_before_the_end(stream)
    assert names == [f"t{i:03}" for i in range(1, 1 + len(names))]
    assert len(names) <= 9
    assert not readers()


def test_a_file_replaced_by_another_of_the_same_size(tmp_path: Path) -> None:
    """Its tensors lie elsewhere: what would be read is noise."""
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_file({"a": torch.ones(4), "b": torch.zeros(8)}, path)
    save_file({"a": torch.ones(8), "b": torch.zeros(4)}, other)
    entries = SafetensorsFile.open(path).tensors
    original = path.read_bytes()
    assert len(original) == other.stat().st_size
    assert torch.equal(dict(stream_tensors(entries))["a"], torch.ones(4))

    path.write_bytes(other.read_bytes())
    for read in (lambda: list(stream_tensors(entries)), lambda: read_tensor(entries["b"])):
        with pytest.raises(InvalidModel, match=r"x\.safetensors was replaced .* open the model again"):
            read()
    path.write_bytes(original)  # the same file again is as good as it was
    assert torch.equal(read_tensor(entries["a"]), torch.ones(4))


def test_reading_ahead_is_bounded(tmp_path: Path) -> None:
    """With the file gone after the first tensor, only what was in flight can still come: two chunks per thread."""
    path = sparse(tmp_path / "x.safetensors", 40, READ_CHUNK_BYTES)
    stream = stream_tensors(entries_of(path), threads=2)
    next(stream)
    path.unlink()
    assert len(taken_before_the_end(stream)) <= 4


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("nbytes", [READ_CHUNK_BYTES // 4, 8 * READ_CHUNK_BYTES])
def test_memory_is_bounded(tmp_path: Path, nbytes: int) -> None:
    count, threads = 1024 * MIB // nbytes, 4
    entries = entries_of(sparse(tmp_path / "x.safetensors", count, nbytes))
    for _ in stream_tensors(dict(list(entries.items())[:2]), threads=threads):
        pass
    before = peak = resident()
    for name, tensor in stream_tensors(entries, threads=threads):
        assert not tensor.any(), name
        peak = max(peak, resident())
    assert peak - before <= 2 * threads * READ_CHUNK_BYTES + 2 * nbytes + 32 * MIB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("read", [read_tensor, lambda entry: list(stream_tensors({"t": entry}))])
def test_says_which_file_and_why(tmp_path: Path, read: object) -> None:
    path = sparse(tmp_path / "x.safetensors", 2, 1000)
    entry = entries_of(path)["t001"]
    os.truncate(path, entry.offset + 10)
    with pytest.raises(InvalidModel, match=r"x\.safetensors ended at .* bytes while it was read"):
        read(entry)  # type: ignore[operator]
    path.unlink()
    with pytest.raises(InvalidModel, match=r"x\.safetensors cannot be read: No such file or directory\."):
        read(entry)  # type: ignore[operator]


def test_a_pinned_slot_is_filled_again_only_after_its_copy(odd_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On streams and events that note what they are asked; without a GPU, all memory is the CPU's."""

    class Event:
        def __init__(self) -> None:
            self.pending = False

        def record(self, stream: object) -> None:
            assert not self.pending, "the slot was filled while it was copied from"
            self.pending = True
            recorded.append(self)

        def synchronize(self) -> None:
            self.pending = False

    recorded: list[Event] = []
    empty = torch.empty
    fake = SimpleNamespace(current_stream=lambda device: None, stream=lambda stream: nullcontext(), Event=Event)
    monkeypatch.setattr(reader, "READ_CHUNK_BYTES", 1000)
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "empty", lambda *size, dtype, device="cpu", pin_memory=False: empty(*size, dtype=dtype))
    streamed = dict(stream_tensors(entries_of(odd_file), torch.device("cuda"), threads=1))
    monkeypatch.undo()
    assert all(same_bits(streamed[name], tensor) for name, tensor in load_file(odd_file).items())
    assert len(recorded) > 10 * len(set(recorded))  # each slot many times


def test_read_bytes_fills_what_it_is_given(odd_file: Path) -> None:
    name, entry = next((n, e) for n, e in entries_of(odd_file).items() if e.nbytes > 1000)
    into = torch.zeros(entry.nbytes, dtype=torch.uint8)
    read_bytes(entry, into)
    assert same_bits(into, load_file(odd_file)[name].reshape(-1).view(torch.uint8))
