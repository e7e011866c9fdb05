"""How long a generation would take within a plan, from what this machine was measured at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.diffusion.schedule import STAGE_2_SIGMAS
from ltx_a2v.model.recipe import Recipe
from ltx_a2v.networks import text
from ltx_a2v.planning.plan import Plan, Sizes
from ltx_a2v.planning.probe import Speeds

ENCODERS = ("text_encoder", "connectors")


@dataclass(frozen=True)
class Prediction:
    """Seconds of one generation, from nothing in memory. The picture's and the sound's encoders, the upsampler and the
    video file, which take little, are left out."""

    step_1: float
    step_2: float
    steps: float
    """All of them."""
    reading: float
    """Weights that are read once, or once per prompt."""
    text: float
    """Computing the prompts' contexts."""
    decode: float

    @property
    def total(self) -> float:
        return self.steps + self.reading + self.text + self.decode


def predict(
    plan: Plan, sizes: Mapping[str, Sizes], recipes: Mapping[str, Recipe], speeds: Speeds, steps: int, texts: int
) -> Prediction:
    """Of `steps` steps of stage 1 and `texts` prompts that are not yet known."""
    bytes_in_file = {name: sum(entry.nbytes for entry in _read(recipe)) for name, recipe in recipes.items()}

    def streamed_share(name: str) -> float:
        return sizes[name].streamed(plan.placements[name]) / max(sizes[name].total, 1)

    def from_file(name: str) -> bool:
        return plan.placements[name].home == "file"

    def transfer(names: tuple[str, ...]) -> float:
        """Seconds that a sweep's copies take."""
        return sum(
            streamed_share(name) * bytes_in_file[name] / speeds.read
            if from_file(name)
            else sizes[name].streamed(plan.placements[name]) / speeds.copy
            for name in names
        )

    def step(phase: str, computing: float) -> float:
        moving = transfer(plan.networks[phase])
        return max(computing, moving) if speeds.overlaps else computing + moving

    def reads(name: str) -> float:
        """How often a network is read besides what steps read."""
        share = streamed_share(name) if from_file(name) else 0.0
        return 1 + (texts - 1) * share if name in ENCODERS else 1 - share

    parameters = sum(math.prod(entry.shape) for name in ENCODERS for entry in _read(recipes[name]))
    step_1, step_2 = step("stage_1", speeds.step_1), step("stage_2", speeds.step_2)
    return Prediction(
        step_1,
        step_2,
        steps * step_1 + (len(STAGE_2_SIGMAS) - 1) * step_2,
        sum(reads(name) * size for name, size in bytes_in_file.items()) / speeds.read,
        texts * text.MAX_TOKENS * parameters * speeds.per_parameter,
        speeds.decode,
    )


def _read(recipe: Recipe) -> list[TensorEntry]:
    return [recipe.entries[name] for name in recipe.on_device(recipe.entries)]
