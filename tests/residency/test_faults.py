"""Reads that fail in the middle of a sweep: a clear error, nothing left behind, and the next request works."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import InvalidModel, OutOfMemory
from ltx_a2v.residency.ledger import Ledger
from ltx_a2v.residency.network import Loaded, Network, Placement
from ltx_a2v.residency.sources import HostBuffer
from ltx_a2v.residency.stream import DEFAULT_SLOTS
from ltx_a2v.settings.loading import LoadOptions
from tests.residency.test_stream import Recording, make

BLOCKS = 4


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.data())
def test_any_copy_may_fail(count: int, slots: int, sweeps: int, data: st.DataObject) -> None:
    resident = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    copies = (count - len(resident)) * sweeps
    source = Recording(fails_at=data.draw(st.integers(0, copies - 1)))
    with Ledger() as ledger:
        stream = make(count, resident, slots, source)
        held = ledger.live  # the resident blocks and the slots
        assert held == (len(resident) + min(slots, count - len(resident))) * 8 * 8 * 4
        with pytest.raises(InvalidModel, match="the file ended"):
            _sweep(stream, sweeps)
        source.fails_at = None
        source.fetched.clear()
        _sweep(stream, sweeps)
        assert len(source.fetched) == copies
        stream.close()
        assert ledger.live == len(resident) * 8 * 8 * 4


def _sweep(stream: object, sweeps: int) -> None:
    stream.begin(sweeps)  # type: ignore[attr-defined]
    for _ in range(sweeps):
        for index, block in enumerate(stream.sweep()):  # type: ignore[attr-defined]
            assert torch.equal(block.weight, torch.full((8, 8), float(index)))


@pytest.fixture
def copied(model: ModelPaths, tmp_path: Path) -> ModelPaths:
    """A checkpoint of one's own, to be cut."""
    path = tmp_path / "ltx-2.3.safetensors"
    path.write_bytes(model.checkpoint.read_bytes())
    return replace(model, checkpoint=path)


@pytest.mark.parametrize("home", ["file", "host"])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_file_that_ends_within_any_block(copied: ModelPaths, block: int, home: str) -> None:
    network = _transformer(copied)
    whole = copied.checkpoint.read_bytes()
    entries = SafetensorsFile.open(copied.checkpoint).tensors
    name = f"model.diffusion_model.transformer_blocks.{block}.attn1.to_q.weight"
    reference = _first_values(network, Placement(home, 0))
    network.release()

    with Ledger() as ledger:
        message = _cut_while_used(network, Placement(home, 0), copied.checkpoint, entries[name].offset + 1)
        assert "ended at" in message
        network.release()
        gc.collect()
        assert ledger.live == 0
    assert not network.on_device
    assert network.host_bytes == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read-tensors", "block-copies"))]
    copied.checkpoint.write_bytes(whole)
    assert _first_values(network, Placement(home, 0)) == reference
    network.release()


@pytest.fixture
def host_buffers(monkeypatch: pytest.MonkeyPatch) -> list[HostBuffer]:
    """Those that were made and not released."""
    alive: list[HostBuffer] = []

    class Counted(HostBuffer):
        def __init__(self, nbytes: int, pinned: bool) -> None:
            super().__init__(nbytes, pinned)
            alive.append(self)

        def release(self) -> None:
            alive.remove(self)
            super().release()

    monkeypatch.setattr("ltx_a2v.residency.sources.HostBuffer", Counted)
    return alive


def test_host_memory_that_was_got_ready_for_nothing_is_given_back(
    model: ModelPaths, host_buffers: list[HostBuffer]
) -> None:
    network = _transformer(model)
    with pytest.raises(KeyboardInterrupt):
        _interrupt(network, Placement("host", 0))
    copied = 1 + 1 + DEFAULT_SLOTS  # what is in no block, the block that computed, and those in the slots
    assert len(host_buffers) <= copied
    assert network.host_bytes == sum(buffer.flat.numel() for buffer in host_buffers)
    network.release()
    assert not host_buffers
    assert network.host_bytes == 0


def test_host_memory_that_could_not_be_had_is_asked_for_again(
    model: ModelPaths, host_buffers: list[HostBuffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _transformer(model)
    reference = _first_values(network, Placement("host", 0))
    network.release()
    with monkeypatch.context() as short:
        short.setattr("mmap.mmap", _no_memory)
        for _ in range(2):
            with pytest.raises(OutOfMemory, match="more host memory could not be had"):
                _first_values(network, Placement("host", 0))
    assert not host_buffers
    assert _first_values(network, Placement("host", 0)) == reference
    assert network.host_bytes == sum(buffer.flat.numel() for buffer in host_buffers) > 0


def _interrupt(network: Network, placement: Placement) -> None:
    with network.use(placement) as loaded:
        loaded.begin(1)
        next(_use(loaded))
        raise KeyboardInterrupt


def _no_memory(*_: object) -> object:
    raise OSError(12, "Cannot allocate memory")


def _transformer(paths: ModelPaths) -> Network:
    pipeline = A2VPipeline.open(paths, device="cpu", options=LoadOptions("int8", prompt_cache=False))
    return pipeline._networks._networks["transformer"]


def _cut_while_used(network: Network, placement: Placement, path: Path, size: int) -> str:
    """The error's message; its traceback, which holds what was on the device, ends with this function."""
    try:
        with network.use(placement) as loaded:
            os.truncate(path, size)
            loaded.begin(2)
            for _ in range(2):
                list(_use(loaded))
    except InvalidModel as error:
        return str(error)
    raise AssertionError("the file was cut and nobody noticed")


def _use(loaded: Loaded) -> Iterator[float]:
    for block in loaded.stream.sweep():
        yield float(block.attn1.to_q.weight_scale[0])


def _first_values(network: Network, placement: Placement) -> list[float]:
    with network.use(placement) as loaded:
        loaded.begin(1)
        return list(_use(loaded))
