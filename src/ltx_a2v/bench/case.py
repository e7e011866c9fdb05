"""What is measured: cases, each a mode, a budget, a size and how the generation starts. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.puppet.examples import FACE, PROMPT, SPEECH
from ltx_a2v.request import GenerationRequest

Start = Literal["warm", "cold"]
STANDARD = "standard"
HAS_QUALITY = "quality" in GenerationRequest.model_fields
"""Whether requests have other qualities than `STANDARD`."""


@dataclass(frozen=True)
class Case:
    """One combination that is measured; two results with equal cases can be compared."""

    model: str
    """Name of the checkpoint's file."""
    mode: str
    budget: str
    width: int
    height: int
    frames: int
    steps: int
    """Of stage 1."""
    quality: str = STANDARD
    start: Start = "warm"
    """warm: weights are kept and the prompt is known; cold: the first request of a process, its prompt unknown."""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """Other settings than the default ones, by name."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Case:
        """Raises `TypeError` where fields are missing or unknown."""
        return cls(**fields)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def group(self) -> tuple[str, str]:
        """Cases of one group are measured by one worker, which reads the weights once."""
        return self.mode, self.budget

    def request(self, folder: Path) -> GenerationRequest:
        """Its video goes to `folder`. Raises `InvalidRequest`."""
        return _request(
            self.width, self.height, self.frames, self.steps, self.quality, output_path=folder / "video.mp4"
        )

    def __str__(self) -> str:
        quality = "" if self.quality == STANDARD else f", {self.quality}"
        return f"{self.mode}, {self.budget}, {self.size}{quality}"


@dataclass(frozen=True)
class Sweep:
    """Lists of values, the most important first, of which every combination is a case."""

    modes: Sequence[str]
    budgets: Sequence[str]
    sizes: Sequence[str]
    """As `768x512`."""
    qualities: Sequence[str]
    frames: int
    steps: int
    start: Start

    def cases(self, model: str, settings: dict[str, Any]) -> list[Case]:
        """In the order in which they should be measured: see `_importance`. Raises `InvalidRequest`."""
        sizes = [_parse_size(size) for size in self.sizes]
        for size, quality in product(sizes, self.qualities):
            _check(*size, self.frames, self.steps, quality)
        for budget in self.budgets:
            _check_budget(budget)
        lists = (self.modes, self.budgets, sizes, self.qualities)
        ranked = sorted(product(*(range(len(values)) for values in lists)), key=lambda places: _importance(*places))
        return [
            Case(
                model,
                self.modes[mode],
                self.budgets[budget],
                *sizes[size],
                self.frames,
                self.steps,
                self.qualities[quality],
                self.start,
                settings,
            )
            for mode, budget, size, quality in ranked
        ]


def _importance(mode: int, budget: int, size: int, quality: int) -> tuple[int, ...]:
    """Places in the lists -> place in the order. First every mode and budget at the first size and quality, those with
    earlier values first; then the others, grouped by mode and budget, so that weights are read at most twice."""
    return int(size + quality > 0), mode + budget, mode, size + quality, size


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InvalidRequest("sizes", text, "is not a size; write widths and heights, as 768x512,1280x768")
    return int(width), int(height)


def _check(width: int, height: int, frames: int, steps: int, quality: str) -> None:
    try:
        _request(width, height, frames, steps, quality)
    except InvalidRequest as error:
        flags = {"width": "sizes", "height": "sizes", "num_frames": "frames", "num_inference_steps": "steps"}
        value = f"{width}x{height}" if flags.get(error.field) == "sizes" else error.value
        reason = f"{error.field} {error.reason}" if flags.get(error.field) == "sizes" else error.reason
        raise InvalidRequest(flags.get(error.field, error.field), value, reason) from None


def _check_budget(text: str) -> None:
    try:
        Budget(text)
    except InvalidRequest as error:
        raise InvalidRequest("budgets", text, error.reason) from None


def _request(width: int, height: int, frames: int, steps: int, quality: str, **more: Any) -> GenerationRequest:
    chosen: dict[str, Any] = {"quality": quality} if HAS_QUALITY else {}
    return GenerationRequest(
        prompt=PROMPT,
        image=FACE,
        audio=SPEECH,
        width=width,
        height=height,
        num_frames=frames,
        num_inference_steps=steps,
        speech_preparation="off",  # as many frames as are asked for, and the reference's input
        **chosen,
        **more,
    )


def listed(text: str, field: str) -> tuple[str, ...]:
    """`a,b` -> its values, each once. Raises `InvalidRequest` where there is none."""
    values = tuple(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    if not values:
        raise InvalidRequest(field, text, "names nothing; give at least one value")
    return values


def by_group(cases: Iterable[Case]) -> list[list[Case]]:
    """Neighbours of one group together, in order."""
    groups: list[list[Case]] = []
    for case in cases:
        if groups and groups[-1][-1].group == case.group:
            groups[-1].append(case)
        else:
            groups.append([case])
    return groups
