"""Files written tensor by tensor are what the safetensors package reads, or are not there."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ltx_a2v.checkpoint.dtypes import DTYPES
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec
from ltx_a2v.errors import InvalidOutput

TENSORS = {
    **{f"of {name}": torch.arange(24).reshape(2, 3, 4).to(dtype) for name, dtype in DTYPES.items()},
    "scalar": torch.tensor(0.25, dtype=torch.float64),
    "empty": torch.empty(0, 8),
    "größe": torch.arange(16.0).reshape(4, 4).t(),
}


def specs(tensors: dict[str, Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def write(path: Path, announced: dict[str, Tensor], given: Iterable[tuple[str, Tensor]]) -> None:
    with SafetensorsWriter(path, specs(announced), {}) as writer:
        for name, tensor in given:
            writer.write(name, tensor)


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with SafetensorsWriter(path, specs(TENSORS), {"config": '{"a": "é"}'}) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        assert not path.exists()

    assert path.stat().st_size == writer.nbytes
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert [name for name in SafetensorsFile.open(path).tensors if name != "empty"] == [
        n for n in TENSORS if n != "empty"
    ]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"config": '{"a": "é"}'}
        for name, tensor in TENSORS.items():
            read = file.get_tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(read.double(), tensor.double())
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_not_announced_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    announced = {"a": torch.zeros(2)}
    for given in ([], [("b", torch.zeros(2))], [("a", torch.zeros(2).int())], [("a", torch.zeros(3))]):
        with pytest.raises(ValueError, match="announced"):
            write(tmp_path / "a.safetensors", announced, given)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_stopping_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("old")

    def stopped() -> Iterator[tuple[str, Tensor]]:
        yield from list(TENSORS.items())[:3]
        assert (tmp_path / "a.safetensors.part").exists()
        raise error

    with pytest.raises(error):
        write(path, TENSORS, stopped())
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_small_disk_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    large = [TensorSpec("a", torch.bfloat16, (2**20, 2**10))]
    with (
        pytest.raises(InvalidOutput, match=r"needs 2\.00 GiB and the disk has 1\.00 GiB free"),
        SafetensorsWriter(tmp_path / "a.safetensors", large, {}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    tensors = {"a": torch.zeros(2)}
    with pytest.raises(InvalidOutput, match=r"a\.safetensors cannot be written: No space left on device; nothing"):
        write(tmp_path / "a.safetensors", tensors, tensors.items())
    assert list(tmp_path.iterdir()) == []
