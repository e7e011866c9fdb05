"""Estimates the progress of a job: phases are weighted by their expected seconds and divided by their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ltx_a2v.request import FAST_STEPS

EXPECTED_SECONDS: dict[str, float] = {
    "load": 30.0,
    "load_audio": 0.3,
    "encode_prompt": 2.0,
    "encode_audio": 0.5,
    "encode_image": 0.5,
    "load_transformer": 10.0,
    "stage_1": 25.0,
    "upsample": 0.5,
    "stage_2": 5.0,
    "decode": 4.0,
}
"""Shares before the first job has been measured; only their proportions matter."""

_ONCE = frozenset({"load", "load_audio", "encode_prompt"})
"""Phases that a video has once, however many windows it has."""

EXPECTED_PASSES = 120
"""Passes of stage 1 that `EXPECTED_SECONDS` assumes: 30 steps of 4."""

TRUSTED_SHARE = 0.05
"""No remaining time is given below this share of the work."""


def stage_1_passes(request: Mapping[str, Any]) -> int:
    """Passes of the transformer in stage 1 of a job's request, to which its seconds are about proportional."""
    if request.get("quality") == "fast":
        return FAST_STEPS
    steps, guidance = request["num_inference_steps"], request.get("guidance") or {}
    every = guidance.get("skip_step", 0) + 1
    extra = (guidance.get("cfg") != 1, guidance.get("stg") != 0, guidance.get("modality") != 1)
    return -(-steps // every) * (1 + sum(extra))


@dataclass
class Estimates:
    """Expected seconds per phase and window: those of the last job, if there was one."""

    phases: dict[str, float] = field(default_factory=lambda: {**EXPECTED_SECONDS})
    passes: int = EXPECTED_PASSES
    measured: bool = False

    def learn(self, phases: Mapping[str, float], passes: int, windows: int = 1) -> None:
        per_window = {name: seconds / (1 if name in _ONCE else windows) for name, seconds in phases.items()}
        self.phases = {"load": self.phases["load"], **per_window}
        self.passes, self.measured = passes, True

    def learn_load(self, seconds: float) -> None:
        self.phases["load"] = seconds

    def for_job(self, passes: int, loads_first: bool) -> dict[str, float]:
        expected = {**self.phases, "stage_1": self.phases.get("stage_1", 0.0) * passes / self.passes}
        if not loads_first:
            del expected["load"]
        return expected


@dataclass(frozen=True)
class Snapshot:
    """What is told of a running job's progress."""

    percent: int = 0
    phase: str | None = None
    step: int = 0
    steps: int = 0
    window: int = 1
    windows: int = 1
    eta_seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Progress:
    """Updated by a job's events. `percent` stays below 100, which is for a saved file, and decreases only where a long
    video turns out to have several windows."""

    expected: Mapping[str, float]
    started_at: float
    measured: bool = True
    """Whether the expected seconds were measured here; otherwise no remaining time is given before the second step."""
    phase: str | None = None
    step: int = 0
    steps: int = 0
    percent: int = 0
    window: int = 1
    """The window of a long video that is made."""
    windows: int = 1
    _finished: set[str] = field(default_factory=set)

    def start_window(self, window: int, windows: int) -> None:
        if window > 1:  # what came before the first window, such as the prompt, is not done again
            self._finished &= _ONCE
        if windows != self.windows:  # only now it is known how much there is to do
            self.percent = 0
        self.window, self.windows = window, windows
        self._advance()

    def start_phase(self, phase: str, steps: int) -> None:
        order = list(self.expected)
        if phase in order:  # phases that were left out count as done
            self._finished.update(order[: order.index(phase)])
        self.phase, self.step, self.steps = phase, 0, steps
        self._advance()

    def finish_step(self, step: int, steps: int) -> None:
        self.step, self.steps = step, steps
        self._advance()

    def finish_phase(self, phase: str) -> None:
        self._finished.add(phase)
        self._advance()

    def seconds_left(self, now: float) -> float | None:
        done = self._share()
        if done < TRUSTED_SHARE or (not self.measured and self.step < 2):
            return None
        return (now - self.started_at) * (1 - done) / done

    def snapshot(self, now: float) -> Snapshot:
        left = self.seconds_left(now)
        eta = None if left is None else round(left, 1)
        return Snapshot(self.percent, self.phase, self.step, self.steps, self.window, self.windows, eta)

    def _advance(self) -> None:
        self.percent = max(self.percent, min(99, int(100 * self._share())))

    def _share(self) -> float:
        """Of the work. Expected seconds are of one window, except those of `_ONCE`."""
        total = sum(self.expected.values())
        done = sum(seconds for phase, seconds in self.expected.items() if phase in self._finished)
        if self.phase not in self._finished and self.steps:
            done += self.expected.get(self.phase or "", 0.0) * self.step / self.steps
        once = sum(seconds for phase, seconds in self.expected.items() if phase in _ONCE)
        of_window = total - once
        whole = once + of_window * self.windows
        return (done + of_window * (self.window - 1)) / whole if whole else 0.0
