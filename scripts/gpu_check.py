"""Does everything work on this GPU? A few minutes, the miniature model, no files needed.

Checks bits across devices and placements, every quantization mode, the reader, and measures the bus. One command:
`uv run python scripts/gpu_check.py [MODE ...] [--only kernels,pipeline]`.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import PerChannelRMSNorm
from diffusers.models.normalization import RMSNorm
from safetensors.torch import load_file

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, kernels
from ltx_a2v.checkpoint.reader import stream_tensors
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import InvalidMode, MissingExtra, OutOfMemory
from ltx_a2v.marks.marking import Marking
from ltx_a2v.miniature import ensure_miniature
from ltx_a2v.puppet import puppet_paths
from ltx_a2v.quantization import MODES, QuantizationPolicy
from ltx_a2v.residency.host_copies import PREPARING_THREADS, HostBuffer
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions

CUDA = torch.device("cuda")
ROOT = Path(__file__).parents[1]
failures: list[str] = []
wanted: list[str] = [""]
"""Parts of the names of the checks that are made."""


def check(name: str, work: Callable[[], str]) -> None:
    if not any(part in name for part in wanted):
        return
    started = time.perf_counter()
    try:
        said = work()
    except Exception as error:
        traceback.print_exc(limit=-3)
        failures.append(name)
        said = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
    say(f"{name:<34} {said}  [{time.perf_counter() - started:.1f} s]")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def same_bits_on_both_devices(mode: str) -> str:
    policy = QuantizationPolicy.from_mode(mode)
    weight = (torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    name = "transformer_blocks.0.attn1.to_q.weight"
    here, there = dict(policy.convert(name, weight)), dict(policy.convert(name, weight.to(CUDA)))
    for key, value in here.items():
        other = there[key].cpu()
        assert torch.equal(value.view(torch.uint8), other.view(torch.uint8)), key
    return f"same bits: {', '.join(k.rsplit('.', 1)[-1] for k in here)}"


def kernels_agree() -> str:
    """Each Triton kernel on the real widths against the plain form in float32."""
    started = time.perf_counter()
    assert kernels.problem(CUDA) is None, kernels.problem(CUDA)
    draw = lambda *shape: torch.randn(shape, device=CUDA).bfloat16()  # noqa: E731
    rows, frames, tokens, heads, size = 3, 13, 1248, 32, 128
    x, logits = draw(rows, tokens, heads * size), draw(rows, tokens, heads)
    scale, shift = (part.unsqueeze(2) for part in draw(1, frames, 2, heads * size).unbind(2))
    norm, weighted = (
        RMSNorm(heads * size, 1e-6, False),
        torch.nn.RMSNorm(heads * size, eps=1e-6, device=CUDA).requires_grad_(False),
    )
    rope = torch.randn(2, 1, heads, tokens, size // 2, device=CUDA).unbind(0)
    clip = draw(1, 128, 9, 128, 192).to(memory_format=torch.channels_last_3d)
    split = draw(rows, heads, tokens, size).transpose(1, 2)
    weight = torch.randint(-127, 128, (4096, 2048), dtype=torch.int8, device=CUDA)
    by_row = torch.rand(4096, device=CUDA)
    calls: dict[str, tuple[Callable[..., torch.Tensor], tuple[object, ...]]] = {
        "modulate": (lambda *given: kernels.modulate(*given).tensor, (x, scale, shift)),
        "norm_and_modulate": (lambda *given: kernels.norm_and_modulate(norm, *given).tensor, (x, scale, shift)),
        "add_gated": (kernels.add_gated, (x, x.flip(0), scale)),
        "norm_and_rotate": (lambda y: kernels.norm_and_rotate(weighted.to(y.dtype), y, rope), (x,)),
        "gate_heads": (lambda y, z: kernels.gate_heads([y[:1], y[1:]], z).tensor, (split, logits)),
        "modulate to e4m3": (lambda *g: dequantized(kernels.modulate(*g, kernels.Form.E4M3)), (x, scale, shift)),
        "gelu to e4m3": (lambda y: dequantized(kernels.gelu_(y.clone(), kernels.Form.E4M3)), (x,)),
        "norm_silu_and_pad": (lambda y: kernels.norm_silu_and_pad(PerChannelRMSNorm(), y, 1, 1), (clip,)),
        "upcast int8": (lambda y: kernels.upcast_rows(weight, by_row, y.dtype), (x,)),
        "upcast e4m3": (lambda y: kernels.upcast_rows(x[0].to(torch.float8_e4m3fn), by_row[:1], y.dtype), (x,)),
        "quantize to e4m3": (lambda y: dequantized(kernels.Activation(None, kernels.quantize_rows(y[0]))), (x,)),
    }
    said = []
    for name, (call, given) in calls.items():
        error = relative(call(*given), call(*(t.float() for t in given)))
        assert error < (0.02 if "to e4m3" in name else 0.003), (name, error)
        said.append(f"{name} {error:.4f} in {timed(lambda c=call, g=given: c(*g)) * 1e6:.0f} us")
    return f"{', '.join(said)}; {time.perf_counter() - started:.1f} s with compiling"


def dequantized(activation: kernels.Activation) -> torch.Tensor:
    assert activation.quantized is not None
    return activation.quantized.values.float() * activation.quantized.scale


def multiplies(policy: QuantizationPolicy) -> str:
    policy.check_device(CUDA)
    holder = torch.nn.ModuleDict(
        {
            "transformer_blocks": torch.nn.ModuleList(
                [
                    torch.nn.ModuleDict(
                        {
                            "attn1": torch.nn.ModuleDict(
                                {"to_q": torch.nn.Linear(4096, 4096, device=CUDA, dtype=torch.bfloat16)}
                            )
                        }
                    )
                ]
            )
        }
    )
    layer = holder["transformer_blocks"][0]["attn1"]["to_q"]
    torch.nn.init.normal_(layer.weight, std=0.02)
    x = torch.randn(1, 4992, 4096, device=CUDA, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = layer(x)
        policy.apply(holder)
        error = relative(layer(x), expected)
        seconds = timed(lambda: layer(x))
    rate = 2 * 4992 * 4096**2 / seconds / 1e12
    return f"output error {error:.4f}, 4992x4096x4096 in {seconds * 1e3:.3f} ms ({rate:.0f} TFLOP/s)"


def timed(work: Callable[[], object], repeats: int = 20) -> float:
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def request(folder: Path, name: str) -> GenerationRequest:
    return GenerationRequest(
        prompt="A robot speaks.",
        image=ROOT / "examples" / "robot.png",
        audio=ROOT / "examples" / "speech.wav",
        output_path=folder / f"{name}.mp4",
        save_latents=folder / f"{name}.safetensors",
        width=256,
        height=192,
        num_frames=25,
        num_inference_steps=4,
        guidance=Guidance(stg_blocks=(1,)),
    )


def placements_agree(folder: Path, mode: str) -> str:
    options = LoadOptions(mode, marking=Marking(reproducible=True))
    pipeline = A2VPipeline.open(ensure_miniature(folder), device="cuda", options=options)
    result = pipeline.run(request(folder, "first"))
    first = load_file(folder / "first.safetensors")
    video = (folder / "first.mp4").read_bytes()
    usual = pipeline.plan(request(folder, "first"))
    for home, resident in (("host", 0), ("file", 0), ("host", 2), ("file", 3), ("device", None)):
        plan = replace(usual, placements={name: Placement(home, resident) for name in usual.placements})  # type: ignore[arg-type]
        for _ in range(2):
            for _ in pipeline.generate(request(folder, "again"), plan):
                pass
            again = load_file(folder / "again.safetensors")
            assert torch.equal(first["stage_1"], again["stage_1"]), (home, resident, "stage_1")
            assert torch.equal(first["stage_2"], again["stage_2"]), (home, resident, "stage_2")
            assert (folder / "again.mp4").read_bytes() == video, (home, resident)
        pipeline.release()
    torch.cuda.empty_cache()
    left = torch.cuda.memory_allocated()
    memory = {
        k: f"{v['predicted'] * 1024:.0f}/{v['allocated'] * 1024:.0f}" for k, v in result.details["memory"].items()
    }
    return f"same bits in 5 placements; left {left} bytes; predicted/allocated MiB {memory}"


def text_encoder(folder: Path, mode: str) -> str:
    """The latents with the text encoder in `mode`, from those with it in bf16."""
    latents = []
    for chosen in ("none", mode):
        options = LoadOptions("int8", text_encoder_quantization=chosen, prompt_cache=False)
        A2VPipeline.open(ensure_miniature(folder), device="cuda", options=options).run(request(folder, chosen))
        latents.append(load_file(folder / f"{chosen}.safetensors")["stage_1"])
    return f"stage 1 differs by {relative(latents[1], latents[0]):.4f} from a bf16 text encoder's"


def near_float32(folder: Path, mode: str) -> str:
    """The talking miniature in bfloat16 with the kernels, from float32 with torch's own operations; an error in one
    guided pass shows. Both on the GPU, whose noise differs from the CPU's."""
    latents = []
    for dtype in (torch.float32, torch.bfloat16):
        spoken = request(folder, "near").model_copy(update={"guidance": Guidance(), "width": 128, "height": 128})
        A2VPipeline.open(puppet_paths(), device="cuda", dtype=dtype, options=LoadOptions(mode)).run(spoken)
        latents.append(load_file(folder / "near.safetensors"))
    errors = [relative(latents[1][stage], latents[0][stage]) for stage in ("stage_1", "stage_2")]
    assert max(errors) < 0.1, errors
    return f"stage 1 differs by {errors[0]:.4f}, stage 2 by {errors[1]:.4f}"


def reader(folder: Path) -> str:
    file = SafetensorsFile.open(ensure_miniature(folder).checkpoint)
    expected = load_file(file.path)
    for name, tensor in stream_tensors(file.tensors, CUDA):
        assert torch.equal(tensor.cpu(), expected.pop(name)), name
    assert not expected
    return "equal to safetensors' own"


def bus() -> str:
    size = 400 * 2**20
    started = time.perf_counter()
    with ThreadPoolExecutor(PREPARING_THREADS) as pool:
        buffers = list(pool.map(lambda _: HostBuffer(size, pinned=True), range(4)))
    together = 4 * size / (time.perf_counter() - started)
    started = time.perf_counter()
    HostBuffer(size, pinned=True).release()
    alone = size / (time.perf_counter() - started)
    for buffer in buffers:
        buffer.flat.random_(0, 255)
    target = torch.empty(size, dtype=torch.uint8, device=CUDA)
    plain = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    ours = timed(lambda: [target.copy_(b.flat, non_blocking=True) for b in buffers], 5) / 4
    theirs = timed(lambda: target.copy_(plain, non_blocking=True), 10)
    for buffer in buffers:
        buffer.release()
    return (
        f"registered {size / ours / 1e9:.1f} GB/s, torch's pinned {size / theirs / 1e9:.1f} GB/s; prepared by "
        f"{PREPARING_THREADS} threads at {together / 1e9:.1f} GB/s, by one at {alone / 1e9:.1f} GB/s"
    )


class Copies:
    """A source whose parts lie in pinned memory already."""

    def __init__(self, buffers: list[HostBuffer]) -> None:
        self._buffers = buffers

    def fetch(self, piece: Piece, flat: torch.Tensor) -> None:
        flat.copy_(self._buffers[int(piece.name)].flat, non_blocking=True)


def streaming() -> str:
    """Blocks that pass through slots with nothing to compute, against plain copies of the same bytes."""
    size, count, sweeps = 400 * 2**20, 8, 5
    buffers = [HostBuffer(size, pinned=True) for _ in range(count)]
    blocks = torch.nn.ModuleList(torch.nn.Module() for _ in range(count))
    for block in blocks:
        block.register_buffer("bytes", torch.empty(size, dtype=torch.uint8, device="meta"))
    pieces = [Piece(str(index), blocks, [f"{index}.bytes"]) for index in range(count)]
    stream = BlockStream(blocks, Piece("", blocks, []), pieces, Copies(buffers), frozenset(), CUDA)
    target = torch.empty(size, dtype=torch.uint8, device=CUDA)
    plain = timed(lambda: [target.copy_(buffer.flat, non_blocking=True) for buffer in buffers], 3)

    def sweep() -> None:
        stream.begin(sweeps)
        for _ in range(sweeps):
            for _ in stream.sweep():
                pass

    streamed = timed(sweep, 2) / sweeps
    stream.close()
    for buffer in buffers:
        buffer.release()
    rates = [count * size / seconds / 1e9 for seconds in (streamed, plain)]
    assert rates[0] >= 0.85 * rates[1], rates
    return f"{rates[0]:.1f} GB/s through slots, {rates[1]:.1f} GB/s by plain copies: {rates[0] / rates[1]:.0%}"


HOG = """
import sys, torch
free = torch.cuda.mem_get_info()[0]
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


def crowded_out(folder: Path) -> str:
    """Another process takes the memory in the middle of a run, and gives it back."""
    pipeline = A2VPipeline.open(ensure_miniature(folder), device="cuda", options=LoadOptions("int8"))
    hog = None
    try:
        for event in pipeline.generate(request(folder, "crowded")):
            if hog is None and getattr(event, "step", 0) and event.phase == "stage_1":
                torch.cuda.empty_cache()
                command = [sys.executable, "-c", HOG, str(4 * 2**20)]
                hog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                assert hog.stdout is not None
                assert hog.stdout.readline() == b"held\n"
        said = "nothing went wrong: no more memory was needed"
    except OutOfMemory as error:
        said = str(error)
    finally:
        if hog is not None:
            hog.communicate()
    assert "pid" in said, said
    pipeline.run(request(folder, "again"))
    return f"{said} Afterwards it works."


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="*", default=["none", "fp8-cast", "int8", "fp8-scaled-mm", "int8-quanto"])
    parser.add_argument("--only", default="", help="parts of the names of checks, with commas between")
    arguments = parser.parse_args()
    wanted[:] = arguments.only.split(",")
    faulthandler.dump_traceback_later(200, exit=True)
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, capability {torch.cuda.get_device_capability()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check("reader", lambda: reader(folder))
        check("bus", bus)
        check("kernels", kernels_agree)
        for mode in MODES:
            try:
                QuantizationPolicy.from_mode(mode).check_device(CUDA)
            except (MissingExtra, InvalidMode) as error:
                say(f"{mode:<34} skipped: {error}")
                continue
            check(f"convert {mode}", lambda mode=mode: same_bits_on_both_devices(mode))
            check(f"multiply {mode}", lambda mode=mode: multiplies(QuantizationPolicy.from_mode(mode)))
        check("streaming", streaming)
        check("crowded out", lambda: crowded_out(folder))
        for mode in arguments.modes:
            check(f"near float32 {mode}", lambda mode=mode: near_float32(folder, mode))
            check(f"pipeline {mode}", lambda mode=mode: placements_agree(folder, mode))
        for mode in ("int4", "bnb-nf4"):
            check(f"text encoder {mode}", lambda mode=mode: text_encoder(folder, mode))
    say(f"{len(failures)} failed: {', '.join(failures)}" if failures else "all passed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
