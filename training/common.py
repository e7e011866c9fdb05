"""What every part of the training uses: time, seeds, checkpoints, pictures of losses and of frames."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def arguments(description: str | None, minutes: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=Path, default=CHECKPOINTS, help="folder of the parts that this one needs")
    parser.add_argument("--output", type=Path, default=CHECKPOINTS, help="folder for weights and pictures")
    parser.add_argument("--resume", type=Path, help="weights to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a few steps on a CPU, to see that everything runs")
    return parser


class Clock:
    """How much of the time is over, 0 to 1; with `steps`, of so many steps instead."""

    def __init__(self, minutes: float, steps: int | None = None) -> None:
        self.begin, self.seconds, self.steps, self.count = time.monotonic(), minutes * 60, steps, 0

    @property
    def passed(self) -> float:
        if self.steps:
            return self.count / self.steps
        return (time.monotonic() - self.begin) / self.seconds

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begin


def rate(passed: float, warm_up: float = 0.02, final: float = 0.03) -> float:
    """Share of the learning rate: a linear beginning, then a cosine."""
    if passed < warm_up:
        return max(passed / warm_up, 0.01)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, passed)))


def materialise(module: nn.Module, device: torch.device | str) -> nn.Module:
    """A module made on `meta`, with torch's own initial values."""
    module = module.to_empty(device=device)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        if hasattr(part, "latents_std"):
            part.latents_mean.zero_()
            part.latents_std.fill_(1)
    return module.requires_grad_(False)


class Average:
    """Exponential moving average of parameters, whose memory grows from short to `longest` steps."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.values = [p.detach().clone() for p in parameters]
        self.weight = torch.ones((), device=parameters[0].device)

    def set_step(self, step: int, longest: int = 500) -> None:
        self.weight.fill_(1 / min(longest, 1 + step / 5))

    @torch.no_grad()
    def update(self) -> None:
        change = torch._foreach_sub([p.detach() for p in self.parameters], self.values)
        torch._foreach_mul_(change, self.weight)
        torch._foreach_add_(self.values, change)

    @torch.no_grad()
    def swap(self) -> None:
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)


def save(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: tensor.detach().to("cpu", dtype).contiguous().clone() for name, tensor in tensors.items()}, part)
    part.rename(path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {name: tensor.float().to(device) for name, tensor in load_file(path).items()}


def to_rgb(video: Tensor) -> np.ndarray:
    """[3, frames, H, W] in [-1, 1] -> uint8 [frames, H, W, 3]."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()


def sheet(path: Path, rows: list[np.ndarray]) -> None:
    """Rows of frames, each uint8 [frames, H, W, 3], as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(path)


def curve(path: Path, lines: Mapping[str, list[tuple[float, float]]], size: tuple[int, int] = (800, 400)) -> None:
    """Values over steps, on a logarithmic scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    points = [(x, math.log10(max(y, 1e-8))) for line in lines.values() for x, y in line if math.isfinite(y)]
    if not points:
        return
    right = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points) + 1e-3
    for i, (name, line) in enumerate((name, line) for name, line in lines.items() if line):
        colour = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")[i % 6]
        at = [
            (40 + (size[0] - 60) * x / right, 20 + (size[1] - 50) * (high - math.log10(max(y, 1e-8))) / (high - low))
            for x, y in line
            if math.isfinite(y)
        ]
        if len(at) > 1:
            draw.line(at, fill=colour, width=2)
        draw.text((60 + 150 * (i % 4), 4 + 12 * (i // 4)), f"{name} {line[-1][1]:.4g}", fill=colour)
    draw.text((4, 20), f"{10**high:.3g}", fill="black")
    draw.text((4, size[1] - 40), f"{10**low:.3g}", fill="black")
    draw.text((size[0] - 80, size[1] - 20), f"step {right:.0f}", fill="black")
    image.save(path)
