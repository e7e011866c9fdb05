"""Measure every quantization mode on the miniature model and write the table into docs/choosing-a-mode.md.

Takes a few minutes on a CPU. The same machine gives the same table; another one may differ in the last digit.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.conversion.convert import quantize_file
from ltx_a2v.conversion.report import ConversionReport
from ltx_a2v.miniature import AUDIO_VAE, REAL_TRANSFORMER, VIDEO_VAE, ensure_miniature
from ltx_a2v.networks.text import build_connectors
from ltx_a2v.networks.transformer import build_transformer
from ltx_a2v.phases import Work
from ltx_a2v.quantization import MODES, relative_error
from ltx_a2v.quantization.choose import choose_policies
from ltx_a2v.settings.defaults import cache_dir

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing-a-mode.md"
BEGIN, END = "<!-- made by scripts/mode_table.py -->\n", "<!-- end -->\n"
SEEDS = (1, 2, 3)
HIDDEN_STATES = 49
HEADER = (
    "| mode | full size, GiB | error, N(0, 0.02) | error, miniature | drift, stage 1 | drift, final |\n"
    "|---|---:|---:|---:|---:|---:|\n"
)


def main() -> None:
    torch.set_num_threads(1)
    model = ensure_miniature(cache_dir() / "miniature")
    exact = drifting_latents(model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            sys.stderr.write(f"{mode}\n")
            rows.append(row(mode, model, exact, Path(folder)))
    write_between_markers(HEADER + "".join(rows))


def row(mode: str, model: ModelPaths, exact: list[dict[str, Tensor]], folder: Path) -> str:
    size, normal = full_size_gib(mode), relative_error(normal_weight(), mode)
    if mode == "none":
        return f"| `none` | {size:.1f} | 0 | 0 | 0 | 0 |\n"
    path = folder / f"{mode}.safetensors"
    report = returned(quantize_file(model.checkpoint, mode, path, measure_errors=True))
    errors = [layer.relative for layer in report.layers if layer.network == "transformer"]
    drifting = drifting_latents(replace(model, checkpoint=path))
    stage_1, stage_2 = (mean(map(relative, of(drifting, stage), of(exact, stage))) for stage in ("stage_1", "stage_2"))
    return f"| `{mode}` | {size:.1f} | {normal:.4f} | {mean(errors):.4f} | {stage_1:.4f} | {stage_2:.4f} |\n"


def full_size_gib(mode: str) -> float:
    """Transformer and connectors of LTX-2.3 as the mode lays them out; no weights are needed for that."""
    config = ModelConfig("2.3.0", REAL_TRANSFORMER, VIDEO_VAE, AUDIO_VAE)
    policies = choose_policies(mode, frozenset(), Path(), None, {}, {})
    networks: list[nn.Module] = [build_transformer(config), build_connectors(config, HIDDEN_STATES)]
    for network, policy in zip(networks, (policies.transformer, policies.connectors), strict=True):
        policy.apply(nn.Module.to(network, torch.bfloat16))
    return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values()) / 2**30


def normal_weight() -> Tensor:
    return torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0)) * 0.02


def drifting_latents(model: ModelPaths) -> list[dict[str, Tensor]]:
    """float32 latents of both stages for each seed."""
    pipeline = A2VPipeline.open(model, device="cpu", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        return [latents(pipeline, seed, Path(folder)) for seed in SEEDS]


def latents(pipeline: A2VPipeline, seed: int, folder: Path) -> dict[str, Tensor]:
    request = GenerationRequest(
        prompt="A friendly robot faces the camera and speaks.",
        image=ROOT / "examples" / "robot.png",
        audio=ROOT / "examples" / "speech.wav",
        output_path=folder / "video.mp4",
        save_latents=folder / "latents.safetensors",
        width=192,
        height=128,
        num_frames=17,
        num_inference_steps=6,
        seed=seed,
    )
    pipeline.run(request)
    return load_file(folder / "latents.safetensors")


def relative(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


def of(runs: list[dict[str, Tensor]], stage: str) -> list[Tensor]:
    return [run[stage] for run in runs]


def mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


def returned(work: Work[ConversionReport]) -> ConversionReport:
    """What the work returns, its events unseen."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def write_between_markers(table: str) -> None:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
