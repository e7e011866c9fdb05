"""CUDA graphs on this GPU: the same bits as without, how many captures, what stays in memory, seconds per step.

    uv run python scripts/graph_check.py [--modes none,int8] [--blocks 8]

First whole generations of the miniature: everything resident, streamed, and kept on the device for a second request.
Then blocks of the real shapes with random weights at 768x512 and 97 frames: stage 1 with four passes, resident and
streamed from pinned host memory, and stage 2 with a LoRA of rank 384. Seconds are scaled to 48 blocks.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bench_forward import CUDA, GRIDS, LAYERS, random_inputs, random_transformer
from gpu_check import request, say
from torch import Tensor, nn

from ltx_a2v import A2VPipeline
from ltx_a2v.diffusion.forward import StageForward
from ltx_a2v.diffusion.graphs import BlockGraphs, CudaCapturer
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.miniature import ensure_miniature
from ltx_a2v.model.adapters import Adapters
from ltx_a2v.networks.transformer import BLOCKS, linear_shapes
from ltx_a2v.planning.plan import Keep
from ltx_a2v.quantization import QuantizationPolicy
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.host_copies import HostBuffer
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions

RANK = 384
STEPS = 6
"""Of each run: the first is eager, the second captures, the others are timed."""
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="none,int8,fp8-cast,fp8-scaled-mm")
    parser.add_argument("--blocks", type=int, default=8)
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(120, exit=True)
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checks: list[tuple[str, Callable[[], str]]] = [("miniature int8", lambda: miniature(Path(folder), "int8"))]
        for mode in arguments.modes.split(","):
            checks.append((f"real shapes {mode}", lambda mode=mode: real_shapes(mode, arguments.blocks)))
        for name, work in checks:
            started = time.perf_counter()
            try:
                said = work()
            except Exception as error:
                traceback.print_exc(limit=-4)
                failed += 1
                said = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
            say(f"{name}: {said}  [{time.perf_counter() - started:.1f} s]")
    say("failed" if failed else "all passed")
    return failed


def miniature(folder: Path, mode: str) -> str:
    paths = ensure_miniature(folder)

    def opened(graphs: bool, keep: Keep = "nothing") -> A2VPipeline:
        options = LoadOptions(mode, keep=keep, cuda_graphs=graphs)
        return A2VPipeline.open(paths, device="cuda", options=options)

    def latents(pipeline: A2VPipeline, **placements: Placement) -> bytes:
        asked = request(folder, "miniature")
        plan = pipeline.plan(asked)
        for _ in pipeline.generate(asked, replace(plan, placements={**plan.placements, **placements})):
            pass
        assert asked.save_latents is not None
        return asked.save_latents.read_bytes()

    expected = latents(opened(False))
    captures = {}
    for name, placements in (
        ("resident", {}),
        ("streamed", dict.fromkeys(("transformer", "distilled"), Placement("host", 0))),
        ("partly", {"transformer": Placement("host", 2), "distilled": Placement("file", 1)}),
    ):
        pipeline = opened(True)
        assert latents(pipeline, **placements) == expected, name
        captures[name] = captures_of(pipeline)
        pipeline.release()
    before = torch.cuda.memory_allocated()
    pipeline = opened(True, "device")
    for _ in range(2):
        assert latents(pipeline) == expected, "kept"
        captures[f"kept {len(captures) - 2}"] = captures_of(pipeline)
    assert captures["kept 1"] == captures["kept 2"], captures
    pipeline.release()
    left = (torch.cuda.memory_allocated() - before) / MIB
    return f"same bits; captures so far {captures}; {left:.1f} MiB left after release"


def captures_of(pipeline: A2VPipeline) -> int:
    graphs = pipeline.model.graphs
    assert graphs is not None
    assert not graphs.refused, "a capture failed"
    return graphs.captures


@dataclass
class Run:
    """Velocities of every step, and the seconds of each."""

    velocities: list[Tensor]
    seconds: list[float]

    @property
    def median(self) -> float:
        timed = sorted(self.seconds[2:])
        return timed[len(timed) // 2]


def real_shapes(mode: str, blocks: int) -> str:
    transformer = random_transformer(blocks)
    QuantizationPolicy.from_mode(mode).apply(transformer)
    rest, pieces = Blueprint("transformer", lambda: transformer, {}, block_lists=(BLOCKS,)).split(transformer)
    said = []
    with resident(transformer, rest, pieces) as stream:
        said.append(compared("stage 1", transformer, stream, 1, None))
        adapters = random_adapters(transformer, blocks)
        said.append(compared("stage 2 with LoRA", transformer, stream, 2, adapters))
    with streamed(transformer, rest, pieces) as stream:
        said.append(compared("stage 1 streamed", transformer, stream, 1, None))
    return "\n  " + "\n  ".join(said)


def compared(name: str, transformer: nn.Module, stream: BlockStream, stage: int, adapters: Adapters | None) -> str:
    """Without graphs, with them, and with them in a second request."""
    graphs = BlockGraphs(CudaCapturer(CUDA))
    with ExitStack() as stack:
        if adapters is not None:
            stack.enter_context(adapters.attached(transformer))
        runs = [steps(transformer, stream, stage, use) for use in (None, graphs, graphs)]
    eager, first, second = runs
    for run in (first, second):
        for step, (a, b) in enumerate(zip(run.velocities, eager.velocities, strict=True)):
            assert torch.equal(a, b), f"{name}: step {step} differs"
    assert not graphs.refused, "a capture failed"
    captures, static = graphs.captures, graphs.nbytes / MIB
    allocated, driver = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    graphs.release()
    freed = (allocated - torch.cuda.memory_allocated()) / MIB, (torch.cuda.mem_get_info()[0] - driver) / MIB
    times = {
        "eager": eager.median,
        "graphs": second.median,
        "capturing": first.seconds[1],
    }
    scale = LAYERS / len(stream.pieces)
    seconds = ", ".join(f"{label} {value * scale:.3f} s" for label, value in times.items())
    return (
        f"{name}: same bits; {seconds} per step; {captures} captures; {static:.0f} MiB of buffers; a release freed "
        f"{freed[0]:.0f} MiB of tensors and {freed[1]:.0f} MiB in all"
    )


def steps(transformer: nn.Module, stream: Any, stage: int, graphs: BlockGraphs | None) -> Run:
    torch.manual_seed(stage)
    inputs, latent = random_inputs(GRIDS[stage])
    passes = frozenset(Pass) if stage == 1 else frozenset({Pass.POSITIVE})
    use = graphs.stage((str(stage),), lambda index: (stream.place_of(index),)) if graphs else None
    perturbed = frozenset({len(stream.pieces) // 2})
    stream.begin(STEPS)
    forward = StageForward(transformer, inputs, passes, perturbed, stream.sweep, graphs=use)
    run = Run([], [])
    for step in range(STEPS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        velocities = forward.velocities(latent * (1 - step / 10), torch.tensor(0.9 - step / 10))
        torch.cuda.synchronize()
        run.seconds.append(time.perf_counter() - started)
        run.velocities.append(torch.cat(list(velocities.values())))
    return run


class Stream(BlockStream):
    """Counts its blocks."""

    @property
    def pieces(self) -> Any:
        return self._pieces


class InMemory:
    """A source whose blocks lie in pinned host memory."""

    def __init__(self, buffers: dict[str, HostBuffer]) -> None:
        self._buffers = buffers

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        flat[: piece.nbytes].copy_(self._buffers[piece.name].flat, non_blocking=True)


@contextmanager
def resident(transformer: nn.Module, rest: Piece, pieces: list[Piece]) -> Iterator[Stream]:
    """The weights are where they were made; `rest` is not bound, so that nothing is freed at the end."""
    yield Stream(transformer, rest, pieces, InMemory({}), frozenset(range(len(pieces))), CUDA)


@contextmanager
def streamed(transformer: nn.Module, rest: Piece, pieces: list[Piece]) -> Iterator[Stream]:
    """All blocks from pinned host memory through two slots."""
    buffers = {}
    for piece in pieces:
        buffers[piece.name] = HostBuffer(piece.nbytes, pinned=True)
        for name, view in piece.views(buffers[piece.name].flat).items():
            view.copy_(transformer.get_parameter(name))
    stream = Stream(transformer, rest, pieces, InMemory(buffers), frozenset(), CUDA)
    try:
        yield stream
    finally:
        torch.cuda.synchronize()
        stream.close()
        for buffer in buffers.values():
            buffer.release()


def random_adapters(transformer: nn.Module, blocks: int) -> Adapters:
    pairs = {
        layer: SimpleNamespace(down=SimpleNamespace(shape=(RANK, inputs)), up=SimpleNamespace(shape=(outputs, RANK)))
        for layer, (outputs, inputs) in linear_shapes(transformer).items()
        if layer.startswith(BLOCKS) and "to_gate_logits" not in layer
    }
    with CUDA:
        adapters = Adapters(SimpleNamespace(pairs=pairs), blocks).to(torch.bfloat16)  # type: ignore[arg-type]
    for parameter in adapters.parameters():
        parameter.data.normal_(0, 0.02)
    return adapters


if __name__ == "__main__":
    sys.exit(main())
