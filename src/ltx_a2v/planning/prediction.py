"""Predicts the seconds of a generation within a plan, from the measured speeds of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.events import GenerationPhase
from ltx_a2v.model.adapters import DISTILLED_LORA
from ltx_a2v.planning.plan import Plan
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.sizes import Sizes
from ltx_a2v.versions import ModelVersion

ENCODERS = ("text_encoder", "connectors")


@dataclass(frozen=True)
class Prediction:
    """Seconds of one generation that starts with no weights in memory and no prompt in the cache.

    Decoding the sound, the upsampler and writing the video take little and are left out.
    """

    step_1: float
    step_2: float
    steps: float
    """All steps of both stages, without filling host copies."""
    reading: float
    """Weights that are read once, or once per prompt, and their copies in host memory."""
    text: float
    """Computing the prompts' contexts."""
    decode: float
    phases: Mapping[GenerationPhase, float]
    """By phase: where reading and computing overlap, less than their sum."""

    @property
    def total(self) -> float:
        return sum(self.phases.values())


def predict(
    plan: Plan,
    sizes: Mapping[str, Sizes],
    loaders: Mapping[str, TensorLoader],
    speeds: Speeds,
    version: ModelVersion,
    steps: int,
    texts: int,
) -> Prediction:
    """For `steps` steps of stage 1 and `texts` prompts that are not in the cache."""
    uses = {name: _Use(plan.placements[name], sizes[name], loaders[name], speeds, name) for name in loaders}
    styles = tuple(name for name in loaders if name.startswith("lora "))
    parameters = {name: sum(math.prod(entry.shape) for entry in _read(loaders[name])) for name in ENCODERS}
    estimated = {name: version.text_encoder.tokens * count * speeds.per_parameter for name, count in parameters.items()}
    contexts = {
        "text_encoder": texts * (estimated["text_encoder"] if speeds.text is None else speeds.text),
        "connectors": texts * estimated["connectors"],
    }

    def step(phase: str, computing: float) -> float:
        return _together(computing, sum(uses[name].transfer for name in plan.networks[phase]), speeds)

    def stage(names: tuple[str, ...], each: float, count: int) -> float:
        """The first sweep reads what is streamed, the others copy it."""
        first = sum(uses[name].sweeps(1) for name in names)
        hidden = each if speeds.overlaps else sum(uses[name].transfer for name in names)
        return count * each + max(first - hidden, 0.0)

    def encoder(name: str, sweeps: int) -> float:
        return uses[name].resident + _together(contexts[name], uses[name].sweeps(sweeps), speeds)

    step_1, step_2 = step("stage_1", speeds.step_1), step("stage_2", speeds.step_2)
    refining = len(version.schedule.stage_2) - 1
    distilled = tuple(name for name in (DISTILLED_LORA,) if name in loaders)
    adapters = (*styles, *distilled)
    phases: dict[GenerationPhase, float] = {
        "encode_prompt": encoder("text_encoder", 1) + encoder("connectors", texts),
        "encode_audio": uses["audio_encoder"].resident + speeds.encoders[0],
        "encode_image": uses["video_encoder"].resident + speeds.encoders[1],
        "load_transformer": uses["transformer"].resident,
        "stage_1": sum(uses[n].resident for n in styles) + stage(("transformer", *styles), step_1, steps),
        "upsample": uses["upsampler"].resident,
        "stage_2": sum(uses[n].resident for n in adapters) + stage(distilled, step_2, refining),
        "decode": uses["video_decoder"].resident + speeds.decode,
    }
    stages = steps * step_1 + refining * step_2
    reading = sum(use.resident + use.first_sweep for use in uses.values())
    return Prediction(step_1, step_2, stages, reading, sum(contexts.values()), speeds.decode, phases)


def _together(computing: float, moving: float, speeds: Speeds) -> float:
    return max(computing, moving) if speeds.overlaps else computing + moving


class _Use:
    """Seconds of getting one network's weights to the device, when nothing of it is in memory."""

    def __init__(self, placement: Placement, size: Sizes, loader: TensorLoader, speeds: Speeds, name: str) -> None:
        whole = speeds.reading.get(name, sum(entry.nbytes for entry in _read(loader)) / speeds.read)
        streamed = size.streamed(placement) / max(size.total, 1)
        from_file = placement.home == "file"
        copies = size.in_host(placement)
        copying = max(copies / speeds.prepare - whole, 0.0) + copies / speeds.copy
        of_streamed = size.streamed(placement) / copies if copies else 0.0
        self.resident = (1 - streamed) * whole + (1 - of_streamed) * copying
        """Of what stays on the device during a use, with its copies in host memory."""
        self.first_sweep = 0.0 if from_file else streamed * whole + of_streamed * copying
        """Of the streamed blocks, when they are first read; those that come from the file are in `transfer`."""
        self.transfer = streamed * whole if from_file else size.streamed(placement) / speeds.copy
        """Of the streamed blocks in each sweep."""
        self._from_file = from_file

    def sweeps(self, count: int) -> float:
        """Of the streamed blocks in the first `count` sweeps."""
        return count * self.transfer if self._from_file else self.first_sweep + (count - 1) * self.transfer


def _read(loader: TensorLoader) -> list[TensorEntry]:
    return list(loader.blueprint.loaded_entries.values())
