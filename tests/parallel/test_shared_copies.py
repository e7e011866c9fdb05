"""Pipelines of one machine that share their copies of weights in host memory; here two in one process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, LoadOptions, ModelPaths
from ltx_a2v.serving.work.memory import MachineMemory


@pytest.fixture
def memory() -> Iterator[MachineMemory]:
    memory = MachineMemory(networks=1)
    yield memory
    memory.close()


def opened(model: ModelPaths, memory: MachineMemory, **options: object) -> A2VPipeline:
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions(**options), memory=memory.files)  # type: ignore[arg-type]
    pipeline.keep = "host"
    return pipeline


def blocks(memory: MachineMemory) -> int:
    return os.fstat(memory.files[0]).st_blocks


def test_both_use_one_copy_and_plans_count_it_once(
    model: ModelPaths, small_request: GenerationRequest, memory: MachineMemory
) -> None:
    first, second = opened(model, memory), opened(model, memory)
    first.prepare(small_request)
    filled = blocks(memory)
    assert filled * 512 >= first.model.networks["transformer"]._host.nbytes > 0  # type: ignore[union-attr]
    assert second.model.host_bytes >= filled * 512, "what the first has copied is no memory that the second needs"
    second.prepare(small_request)
    assert blocks(memory) == filled
    first.close()
    memory.free_unless([False, True])
    assert blocks(memory) == filled, "the second uses it"
    second.close()
    memory.free_unless([False, False])
    assert blocks(memory) == 0


def test_another_format_has_its_own_copies(
    model: ModelPaths, small_request: GenerationRequest, memory: MachineMemory
) -> None:
    first, second = opened(model, memory), opened(model, memory, transformer_quantization="int8")
    first.prepare(small_request)
    filled = blocks(memory)
    second.prepare(small_request)
    assert blocks(memory) == filled
    assert second.model.networks["transformer"].shared is None
    first.close()
    second.close()
