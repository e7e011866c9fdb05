"""What each fusion of the block loop saves on this GPU: one block of the real shapes, with and without it.

    uv run python scripts/bench_fusions.py [--modes none,int8,fp8-scaled-mm] [--only gelu,text]

First each fused kernel against its unfused form, with the difference between their results. Then a whole block, 97
frames at 768x512: stage 1 with four rows, stage 2 with one and a LoRA of rank 384. A block is replayed as a CUDA graph,
so that the CPU does not count. `without X` restores the unfused form of X alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from bench_forward import CUDA, GRIDS, random_inputs, random_transformer
from gpu_check import timed
from torch import Tensor, nn
from torch.nn import functional as F

from ltx_a2v import kernels
from ltx_a2v.diffusion import attention, block_step, feed_forward
from ltx_a2v.diffusion.block_plan import BlockPlan, plan_stage
from ltx_a2v.diffusion.forward import StageForward
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.kernels import Activation, Form, triton_kernels
from ltx_a2v.quantization import QuantizationPolicy, apply
from ltx_a2v.quantization.fp8_scaled_mm import Fp8ScaledMMLinear

LAYERS, RANK = 48, 384


def separate_text(attn: Any, x: Activation, texts: Sequence[attention.KeyValue], of_row: Sequence[int]) -> Tensor:
    key, value = (torch.cat([texts[text][part] for text in of_row]) for part in (0, 1))
    return attention.query(attn, x, (key, value))


def separate_rows(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """With a copy where a part leaves rows out; putting all rows together would copy those as well."""
    return (
        kernels.add_gated_(x, change, gate) if x.storage_offset() == 0 else x.copy_(kernels.add_gated(x, change, gate))
    )


def separate_tables(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    return rotate(x, weight, eps, cos.contiguous(), sin.contiguous())


def separate_gelu(layer: nn.Linear, x: Activation, form: Form) -> Activation:
    return kernels.gelu_(apply.project(layer, x), form)


rotate = triton_kernels.norm_and_rotate
SWITCHES: dict[str, Callable[[], Any]] = {
    "text": partial(mock.patch.object, block_step, "query_each", separate_text),
    "rows": partial(mock.patch.object, block_step, "add_gated_", separate_rows),
    "tables": partial(mock.patch.object, triton_kernels, "norm_and_rotate", separate_tables),
    "gelu": partial(mock.patch.object, feed_forward, "project_gelu", separate_gelu),
    "e4m3": partial(mock.patch.object, Fp8ScaledMMLinear, "input_form", mock.Mock(return_value=Form.VALUES)),
    "lora": partial(mock.patch.object, apply, "merges", mock.Mock(return_value=False)),
}
"""What puts the unfused form in the place of a fusion."""
MEANING = {
    "text": "rows attend to their text's keys and values without copies of them",
    "rows": "the audio's part is written over the video's rows instead of into new ones",
    "tables": "rotary tables are read as they lie",
    "gelu": "GELU in the GEMM",
    "e4m3": "activations are quantized where they are made, once for q, k and v",
    "lora": "B A is added to the upcast weight",
}


@dataclass
class Factors:
    down: Tensor
    up: Tensor


def thrice_quantized(values: Tensor) -> kernels.Quantized:
    for _ in range(2):
        kernels.quantize_rows(values)
    return kernels.quantize_rows(values)


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="none,int8,fp8-scaled-mm")
    parser.add_argument("--only", default=",".join(SWITCHES), help="fusions to leave out one by one")
    arguments = parser.parse_args()
    started = time.perf_counter()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    assert kernels.problem(CUDA) is None, kernels.problem(CUDA)
    with torch.inference_mode():
        single_kernels()
        for mode in arguments.modes.split(","):
            whole_blocks(mode, arguments.only.split(","))
    say()
    for name, meaning in MEANING.items():
        say(f"{name}: {meaning}")
    say(f"{time.perf_counter() - started:.0f} s")


def single_kernels() -> None:
    """Rows of stage 1; times in microseconds."""
    draw = lambda *shape: torch.randn(shape, device=CUDA).bfloat16()  # noqa: E731
    rows, tokens, heads, size = 4, 1248, 32, 128
    dim = heads * size
    x, hidden, logits = draw(rows, tokens, dim), draw(rows, tokens, 4 * dim), draw(rows, tokens, heads)
    scale, shift = (part.unsqueeze(2) for part in draw(1, 13, 2, dim).unbind(2))
    split = draw(rows, heads, tokens, size).transpose(1, 2)
    wide, bias, weight = draw(4 * dim, dim) * 0.02, draw(4 * dim), draw(dim)
    lora = Factors(draw(RANK, dim) * 0.02, draw(4 * dim, RANK) * 0.02)
    tables = torch.randn(2, 1, tokens, heads, size // 2, device=CUDA).transpose(2, 3).unbind(0)
    base = torch.empty_like(wide)

    def modulated(form: Form) -> Activation:
        return triton_kernels.modulate(x, scale, shift, 1e-6, form)

    def merged() -> Tensor:
        return F.linear(x, base.copy_(wide).addmm_(lora.up, lora.down), bias)

    def separate() -> Tensor:
        narrow = F.linear(x, lora.down).flatten(0, -2)
        return F.linear(x, wide, bias).flatten(0, -2).addmm_(narrow, lora.up.t()).view_as(hidden)

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "norm, modulate, e4m3": (
            lambda: modulated(Form.E4M3).quantized,
            lambda: kernels.quantize_rows(modulated(Form.VALUES).tensor),
        ),
        "norm, modulate, bf16 and e4m3, for q k v": (
            lambda: modulated(Form.VALUES | Form.E4M3).quantized,
            lambda: thrice_quantized(modulated(Form.VALUES).tensor),
        ),
        "gated heads, e4m3": (
            lambda: triton_kernels.gate_heads([split], logits, Form.E4M3).quantized,
            lambda: kernels.quantize_rows(triton_kernels.gate_heads([split], logits).tensor),
        ),
        "GELU, e4m3": (
            lambda: triton_kernels.gelu_(hidden, Form.E4M3).quantized,
            lambda: kernels.quantize_rows(F.gelu(hidden, approximate="tanh")),
        ),
        "GEMM, GELU": (
            lambda: apply._gelu_gemm(x, wide, bias),
            lambda: F.gelu(F.linear(x, wide, bias), approximate="tanh"),
        ),
        "rotary tables": (lambda: rotate(x, weight, 1e-6, *tables), lambda: separate_tables(x, weight, 1e-6, *tables)),
        "LoRA merged (with a copy as upcast)": (merged, separate),
    }
    say("\n| kernel | fused, us | unfused, us | difference |\n|---|---:|---:|---:|")
    for name, (fused, unfused) in pairs.items():
        times = " | ".join(f"{timed(work) * 1e6:.0f}" for work in (fused, unfused))
        say(f"| {name} | {times} | {difference(fused(), unfused())} |")


def whole_blocks(mode: str, switches: list[str]) -> None:
    transformer = random_transformer(1)
    QuantizationPolicy.from_mode(mode).apply(transformer)
    with ExitStack() as loras:
        for stage, passes, number in ((1, frozenset(Pass), 40), (2, frozenset({Pass.POSITIVE}), 40)):
            if stage == 2:
                add_loras(transformer.transformer_blocks[0], loras)
            plan = plan_stage(passes, frozenset({28}), LAYERS).blocks[number]
            state = state_of(transformer, stage, passes, plan)
            run = partial(one_block, transformer.transformer_blocks[0], state, plan)
            fused, seconds = run(), replayed(run)
            say(f"\n{mode}, stage {stage}: {seconds * 1e3:.3f} ms per block, {seconds * LAYERS:.3f} s per step")
            for name in switches:
                if not applies(name, mode, stage):
                    continue
                with SWITCHES[name]():
                    other, without = run(), replayed(run)
                saved = (without - seconds) * LAYERS * 1e3
                differs = f"results differ by {difference(fused, other)}"
                say(f"  without {name:<7} {without * 1e3:.3f} ms: saves {saved:+.1f} ms per step, {differs}")


def applies(name: str, mode: str, stage: int) -> bool:
    multiplies_fp8 = mode == "fp8-scaled-mm"
    if name == "lora" and stage == 1:
        return False
    return not multiplies_fp8 if name in ("gelu", "lora") else multiplies_fp8 or name != "e4m3"


def add_loras(block: nn.Module, stack: ExitStack) -> None:
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear) and "to_gate_logits" not in name:
            down = torch.randn(RANK, layer.in_features, device=CUDA).mul_(0.01).bfloat16()
            up = torch.randn(layer.out_features, RANK, device=CUDA).mul_(0.01).bfloat16()
            stack.enter_context(apply.adapted(layer, Factors(down, up)))


def state_of(transformer: Any, stage: int, passes: frozenset[Pass], plan: BlockPlan) -> block_step.BlockState:
    """Before the block that has this plan, all of whose rows have parted."""
    inputs, latent = random_inputs(GRIDS[stage])
    forward = StageForward(transformer, inputs, passes)
    state = forward._start(latent, torch.tensor(0.7))
    rows = len(plan.cross_attention)
    state.video = torch.randn(rows, *state.video.shape[1:], device=CUDA).bfloat16()
    state.audio = torch.randn(rows - plan.isolated, *state.audio.shape[1:], device=CUDA).bfloat16()
    block = transformer.transformer_blocks[0]
    state.audio_text = block_step.audio_text_of(block, inputs.audio_text, state.modulation)
    return state


def one_block(block: Any, state: block_step.BlockState, plan: BlockPlan) -> Tensor:
    return block_step.block_step(block, replace(state), plan).video


def replayed(work: Callable[[], object]) -> float:
    """Seconds of a replay of what `work` launches."""
    with side_stream():
        for _ in range(2):
            work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return timed(graph.replay)


@contextmanager
def side_stream() -> Iterator[None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def difference(one: Any, other: Any) -> str:
    if isinstance(one, kernels.Quantized):
        differ = (one.values.view(torch.uint8) != other.values.view(torch.uint8)).float().mean()
        return f"{float(differ):.1e} of the bytes"
    return f"{float((one.float() - other.float()).norm() / other.float().norm()):.1e}"


if __name__ == "__main__":
    main()
