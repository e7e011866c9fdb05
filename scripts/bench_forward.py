"""What `ltx-a2v bench` does not measure: the error of a step against float32, with and without the fused kernels.

    uv run python scripts/bench_forward.py [--modes none,int8] [--blocks 4]

A few blocks of the real shapes with random weights stand for all 48. 768x512, 97 frames: stage 1 has four passes of
1,248 video tokens, stage 2 one of 4,992. `error` is that of the velocities, relative (Frobenius), from the same blocks
unquantized in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ltx_a2v import miniature
from ltx_a2v.diffusion.forward import StageForward, StageInputs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.latents import LatentGrid
from ltx_a2v.kernels.dispatch import SWITCH
from ltx_a2v.networks.transformer import build_transformer
from ltx_a2v.quantization import MODES, QuantizationPolicy
from ltx_a2v.versions import NEWEST

LAYERS = 48
CUDA = torch.device("cuda")
GRIDS = {1: LatentGrid.of_video(97, 256, 384, NEWEST.latents), 2: LatentGrid.of_video(97, 512, 768, NEWEST.latents)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(json.dumps(measure(arguments.one, arguments.blocks)) + "\n")
        return
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n")
    sys.stdout.write("| mode | kernels | stage 1, s per step | stage 2 | error, stage 1 | error, stage 2 |\n")
    sys.stdout.write("|---|---|---:|---:|---:|---:|\n")
    for mode in arguments.modes.split(","):
        for switch, kernels in (("1", "fused"), ("0", "torch")):
            command = [sys.executable, __file__, "--one", mode, "--blocks", str(arguments.blocks)]
            done = subprocess.run(command, env=os.environ | {SWITCH: switch}, capture_output=True, text=True)
            if done.returncode:
                sys.stdout.write(f"| `{mode}` | {kernels} | failed: {done.stderr.splitlines()[-1]} |\n")
                continue
            r = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{r['seconds'][0]:.3f}", f"{r['seconds'][1]:.3f}", *(f"{e:.4f}" for e in r["errors"])]
            sys.stdout.write(f"| `{mode}` | {kernels} | {' | '.join(cells)} |\n")
            sys.stdout.flush()


@torch.inference_mode()
def measure(mode: str, blocks: int) -> dict[str, list[float]]:
    """Of both stages; blocks are timed as the difference between all of them and one."""
    seconds, errors = [], []
    for stage, grid in GRIDS.items():
        passes = frozenset(Pass) if stage == 1 else frozenset({Pass.POSITIVE})
        transformer = random_transformer(blocks)
        inputs, latent = random_inputs(grid)
        exact = velocities(transformer.float(), inputs, latent, passes, blocks, torch.float32)()
        transformer = transformer.bfloat16()
        QuantizationPolicy.from_mode(mode).apply(transformer)
        compute = velocities(transformer, inputs, latent, passes, blocks, torch.bfloat16)
        errors.append(relative(compute(), exact))
        whole = timed(compute)
        del transformer.transformer_blocks[1:]
        seconds.append((whole - timed(velocities(transformer, inputs, latent, passes, 1))) / (blocks - 1) * LAYERS)
    return {"seconds": seconds, "errors": errors}


def random_transformer(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    shapes = miniature.REAL_TRANSFORMER | {"num_layers": blocks}
    config = NEWEST.config_of("", {"transformer": shapes, "vae": miniature.VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE})
    transformer = nn.Module.to(build_transformer(config), torch.bfloat16).to_empty(device=CUDA)
    for name, parameter in transformer.named_parameters():
        parameter.data.normal_(0, 0.02).add_(1.0 if "norm_" in name else 0.0)
    return transformer


def random_inputs(grid: LatentGrid) -> tuple[StageInputs, Tensor]:
    mask = torch.ones(1, grid.frames, 1, 1, device=CUDA)
    mask[:, 0] = 0
    shapes = ((1, 101, 128), (1, 1024, 4096), (1, 1024, 4096), (1, 1024, 2048), (1, grid.tokens, 128))
    *given, latent = (torch.randn(shape, device=CUDA).bfloat16() for shape in shapes)
    return StageInputs(grid, 24.0, mask, *given), latent


def velocities(
    transformer: nn.Module,
    inputs: StageInputs,
    latent: Tensor,
    passes: frozenset[Pass],
    blocks: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Callable[[], Tensor]:
    tensors = (inputs.mask, inputs.audio_tokens, inputs.positive_text, inputs.negative_text, inputs.audio_text)
    given = StageInputs(inputs.grid, inputs.frame_rate, *(t.to(dtype) for t in tensors))
    forward = StageForward(transformer, given, passes, frozenset({blocks // 2}))
    return lambda: torch.cat(list(forward.velocities(latent.to(dtype), torch.tensor(0.7)).values()))


def timed(work: Callable[[], object], repeats: int = 7) -> float:
    taken = []
    for _ in range(2 + repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return sorted(taken[2:])[repeats // 2]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b).norm() / b.norm())


if __name__ == "__main__":
    main()
