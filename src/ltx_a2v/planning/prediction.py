"""Predicts the seconds of a generation within a plan, from the measured speeds of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.planning.plan import Plan
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.sizes import Sizes
from ltx_a2v.versions import ModelVersion

ENCODERS = ("text_encoder", "connectors")


@dataclass(frozen=True)
class Prediction:
    """Seconds of one generation that starts with no weights in memory. The encoders of picture and sound, the upsampler
    and writing the video take little and are left out."""

    step_1: float
    step_2: float
    steps: float
    """All steps of both stages."""
    reading: float
    """Weights that are read once, or once per prompt."""
    text: float
    """Computing the prompts' contexts."""
    decode: float

    @property
    def total(self) -> float:
        return self.steps + self.reading + self.text + self.decode


def predict(
    plan: Plan,
    sizes: Mapping[str, Sizes],
    loaders: Mapping[str, TensorLoader],
    speeds: Speeds,
    version: ModelVersion,
    steps: int,
    texts: int,
) -> Prediction:
    """For `steps` steps of stage 1 that run the transformer and `texts` prompts that are not in the cache."""
    bytes_in_file = {name: sum(entry.nbytes for entry in _read(loader)) for name, loader in loaders.items()}

    def streamed_share(name: str) -> float:
        return sizes[name].streamed(plan.placements[name]) / max(sizes[name].total, 1)

    def from_file(name: str) -> bool:
        return plan.placements[name].home == "file"

    def transfer(names: tuple[str, ...]) -> float:
        """Seconds of the copies of one sweep."""
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
        """How often a network is read, not counting the reads of the steps."""
        share = streamed_share(name) if from_file(name) else 0.0
        return 1 + (texts - 1) * share if name in ENCODERS else 1 - share

    parameters = sum(math.prod(entry.shape) for name in ENCODERS for entry in _read(loaders[name]))
    step_1, step_2 = step("stage_1", speeds.step_1), step("stage_2", speeds.step_2)
    return Prediction(
        step_1,
        step_2,
        steps * step_1 + (len(version.schedule.stage_2) - 1) * step_2,
        sum(reads(name) * size for name, size in bytes_in_file.items()) / speeds.read,
        texts * version.text_encoder.tokens * parameters * speeds.per_parameter,
        speeds.decode,
    )


def _read(loader: TensorLoader) -> list[TensorEntry]:
    return list(loader.blueprint.loaded_entries.values())
