"""Writes the README's table "Your card": predictions by the product's own planner from the rates stated here.

    uv run python scripts/card_table.py            # write the table into README.md
    uv run python scripts/card_table.py --check    # say whether README.md has it; about 20 s

Plans come from the headers of a model of the real shapes, as if each card were present; no GPU and no weights are
needed. Seconds come from `planning.prediction` with these rates:

- computing: the vendor's dense bf16 rate with float32 accumulation, times the efficiency that an H100 reached
  (docs/benchmarks.md: 121.6 TFLOP in 0.232 s, 156.8 in 0.328 s, of 989 TFLOP/s);
- the bus: PCIe 4.0 or 5.0 x16 times the efficiency of the H100's (54.0 of 63.0 GB/s);
- cards below compute capability 8.9 run without the fused kernels: 1.40 and 1.25 times as long per step
  (docs/benchmarks-appendix.md, int8);
- decoding: 0.15 s on an H100, scaled by the rate, and 1.9 s of a CPU with 16 cores that writes the mp4;
- the disk: 3 GB/s, an NVMe SSD. Host memory: 64 GiB, prepared at 6 GB/s.

The efficiency of other cards is assumed to be the H100's, which nobody has measured.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ltx_a2v import A2VPipeline, GenerationRequest, LoadOptions, ModelPaths
from ltx_a2v.bench.flops import step_flops
from ltx_a2v.bench.synthetic import write_full_size
from ltx_a2v.diffusion.graphs import BlockGraphs
from ltx_a2v.diffusion.guidance import UNGUIDED, passes_of
from ltx_a2v.fitting import VideoShape, shape_of
from ltx_a2v.kernels import dispatch, planned_for
from ltx_a2v.model.model import Model
from ltx_a2v.planning.auto_mode import copied
from ltx_a2v.planning.meta_model import MetaCapturer
from ltx_a2v.planning.needs import measure_needs
from ltx_a2v.planning.plan import PhaseNeed, Plan, make_plan
from ltx_a2v.planning.prediction import Prediction, predict
from ltx_a2v.planning.probe import Speeds

README = Path(__file__).parents[1] / "README.md"
BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- made by scripts/card_table.py -->\n", "<!-- end -->\n"
HEADER = (
    "| card | free | mode | resident | RAM | peak | first, s | further, s | |\n"
    "|---|---:|---|---:|---:|---:|---:|---:|---|\n"
)
GIB = 2**30
CUDA = torch.device("cuda")
OTHERS = 0.5
"""GiB that a desktop takes of a card, assumed."""
HEADROOM = 1.0
"""GiB that `--vram-budget auto` leaves free."""
H100_TFLOPS = 989.0
STAGE_1, STAGE_2 = 121.6 / 0.232 / H100_TFLOPS, 156.8 / 0.328 / H100_TFLOPS
"""Shares of the vendor's rate that a step reached."""
BUS = 54.0 / 63.0
WITHOUT_FUSED = (1.40, 1.25)
DISK, PREPARING = 3e9, 6e9
HOST = 64 * GIB
DECODE_GPU, DECODE_CPU = 0.15, 1.9
STEPS = 30


@dataclass(frozen=True)
class Card:
    """A card by its vendor's figures."""

    name: str
    memory: float
    """GiB."""
    tflops: float
    """Dense bf16 with float32 accumulation: NVIDIA's GA102, AD102 and RTX Blackwell whitepapers, A100 data sheet."""
    bus: float
    """GB/s of PCIe x16, one way; x8 on the smallest."""
    fused: bool = True
    """Compute capability 8.9 or later."""


PCIE_4, PCIE_5 = 31.5, 63.0
CARDS = (
    Card("RTX 4060, 8 GB", 8, 30.2, PCIE_4 / 2),
    Card("RTX 4070 Ti, 12 GB", 12, 80.2, PCIE_4),
    Card("RTX 4080, 16 GB", 16, 97.5, PCIE_4),
    Card("RTX 3090, 24 GB", 24, 71.0, PCIE_4, fused=False),
    Card("RTX 4090, 24 GB", 24, 165.2, PCIE_4),
    Card("RTX 5090, 32 GB", 31.8, 209.5, PCIE_5),
    Card("RTX 6000 Ada, 48 GB", 48, 364.2, PCIE_4),
    Card("A100, 80 GB", 80, 312.0, PCIE_4, fused=False),
    Card("RTX PRO 6000, 96 GB", 95.6, 503.8, PCIE_5),
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_full_size(Path(folder), headers_only=True)
        models = {(mode, fused): _modelled(paths, mode, fused) for mode in ("none", "int8") for fused in (True, False)}
    rows = "".join([*(_predicted_row(card, models) for card in CARDS), *_measured_rows()])
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    text = before + BEGIN + HEADER + rows + END + after
    if "--check" in sys.argv:
        if text == README.read_text():
            return 0
        sys.stderr.write(f"{README}: the table of cards is out of date: run `python scripts/card_table.py`.\n")
        return 1
    README.write_text(text)
    return 0


@dataclass(frozen=True)
class _Modelled:
    """A model of one mode, with its needs on a GPU."""

    model: Model
    needs: list[PhaseNeed]
    shape: VideoShape


def _modelled(paths: ModelPaths, mode: str, fused: bool) -> _Modelled:
    options = LoadOptions(transformer_quantization=mode)
    opened = A2VPipeline.open(paths, device="cpu", dtype=torch.bfloat16, options=options).model
    model = replace(opened, device=CUDA, graphs=BlockGraphs(MetaCapturer()))
    request = GenerationRequest(prompt="", audio=Path("-"), num_frames=97, image=Path("-"))
    shape = shape_of(request, 97, model.files)
    with planned_for(CUDA), _kernels(fused):
        return _Modelled(model, measure_needs(model, shape), shape)


def _predicted_row(card: Card, models: dict[tuple[str, bool], _Modelled]) -> str:
    free = card.memory - OTHERS
    budget = int((free - HEADROOM) * GIB)
    modelled = models["none", card.fused]
    mode, plan = "bf16", _plan(modelled, budget)
    if copied(plan):
        modelled = models["int8", card.fused]
        mode, plan = "`int8`", _plan(modelled, budget)
    first = _predicted(card, modelled, plan)
    further = first.steps + first.decode
    blocks = plan.placements["transformer"].resident_blocks
    resident = "all" if blocks is None else f"{blocks} of {modelled.model.config.num_layers}"
    host = f"{plan.host_bytes / GIB:.0f}" if plan.host_bytes else "–"
    seconds = f"{first.total:.0f} | {further:.0f} | predicted |"
    return f"| {card.name} | {free:.1f} | {mode} | {resident} | {host} | {plan.peak / GIB:.1f} | {seconds}\n"


def _measured_rows() -> Iterator[str]:
    """The H100's, from the page of benchmarks."""
    for mode, budget in (("int8", "6GiB"), ("int8", "unlimited"), ("none", "unlimited")):
        line = next(line for line in BENCHMARKS.read_text().splitlines() if line.startswith(f"| `{mode}` | {budget} |"))
        _, _, _, resident, whole, *_, memory, _, _ = (cell.strip() for cell in line.split("|"))
        limit = "" if budget == "unlimited" else f", `--vram-budget {budget}`"
        name = "bf16" if mode == "none" else f"`{mode}`"
        blocks = resident if resident == "all" else f"{resident} of 48"
        seconds = f"– | {float(whole.split()[0]):.0f} | measured |"
        copies = "–" if resident == "all" else ""  # not recorded
        peak = f"{float(memory.split(' / ')[0]):.1f}"
        yield f"| H100, 80 GB{limit} | 79 | {name} | {blocks} | {copies} | {peak} | {seconds}\n"


def _plan(modelled: _Modelled, budget: int) -> Plan:
    return make_plan(modelled.model.sizes, modelled.needs, budget, HOST)


def _predicted(card: Card, modelled: _Modelled, plan: Plan) -> Prediction:
    """Seconds of a video with nothing loaded."""
    model, shape = modelled.model, modelled.shape
    slower = (1.0, 1.0) if card.fused else WITHOUT_FUSED
    rates = card.tflops * 1e12 * STAGE_1 / slower[0], card.tflops * 1e12 * STAGE_2 / slower[1]
    perturbed = frozenset(shape.guidance.stg_blocks or ())
    guided = step_flops(model.config, shape.grid(2), shape.audio_tokens, passes_of(shape.guidance), perturbed)
    plain = step_flops(model.config, shape.grid(1), shape.audio_tokens, passes_of(UNGUIDED))
    speeds = Speeds(
        read=DISK,
        copy=card.bus * 1e9 * BUS,
        step_1=guided / rates[0],
        step_2=plain / rates[1],
        decode=DECODE_CPU + DECODE_GPU * H100_TFLOPS / card.tflops,
        per_parameter=2 / rates[1],
        overlaps=True,
        extrapolated=False,
        prepare=PREPARING,
    )
    return predict(plan, model.sizes, model.loaders, speeds, model.config.version, STEPS, texts=2)


@contextlib.contextmanager
def _kernels(fused: bool) -> Iterator[None]:
    """Plans are made as on a GPU with or without the fused kernels; the machine that plans may have none."""
    known = dispatch.problem
    dispatch.problem = lambda _: None if fused else "too old"  # type: ignore[assignment]
    try:
        yield
    finally:
        dispatch.problem = known


if __name__ == "__main__":
    sys.exit(main())
