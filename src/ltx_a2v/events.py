"""The events of a running generation.

One stream of events has three consumers: the progress bars of the command line, the job record of the server, and the
tests. Events are plain values, so that they can cross a process boundary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

GenerationPhase = Literal[
    "load_audio",
    "encode_prompt",
    "encode_audio",
    "encode_image",
    "load_transformer",
    "stage_1",
    "upsample",
    "stage_2",
    "decode",
]
Phase = GenerationPhase | Literal["quantize"]
"""All phases; `quantize` is not part of a generation."""
PHASES: tuple[GenerationPhase, ...] = get_args(GenerationPhase)
PHASE_TITLES: dict[str, str] = {
    "load_audio": "read the sound",
    "encode_prompt": "read the prompt",
    "encode_audio": "encode the sound",
    "encode_image": "encode the picture",
    "load_transformer": "load the transformer",
    "stage_1": "stage 1, half size",
    "upsample": "enlarge",
    "stage_2": "stage 2, full size",
    "decode": "decode and write",
    "quantize": "quantize",
}
"""What people read."""


@dataclass(frozen=True)
class WindowStarted:
    """Window `window` of `windows` of a long video begins; its phases follow."""

    window: int
    """1-based."""
    windows: int
    is_made: bool = False
    """By an earlier run: no phases follow."""


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins."""

    phase: Phase
    steps: int
    """How many `StepFinished` this phase will send; 0 where it has no steps."""


@dataclass(frozen=True)
class StepFinished:
    """Step `step` of `steps` of a phase is done."""

    phase: Phase
    step: int
    """1-based."""
    steps: int


@dataclass(frozen=True, repr=False)
class Previewed:
    """What the video looks like so far, roughly: the frame in its middle, or in that of the window."""

    phase: Phase
    step: int
    """After which it looks so, 1-based."""
    jpeg: bytes


@dataclass(frozen=True)
class PhaseFinished:
    """A phase is done: its seconds, and its peaks of device memory in GiB."""

    phase: Phase
    seconds: float
    allocated_gib: float
    """Peak bytes held by tensors on the device during the phase, in GiB (0 on a CPU)."""
    reserved_gib: float
    """Peak bytes that the allocator took from the device."""


@dataclass(frozen=True)
class Planned:
    """The plan that is followed from here on, in one line: format, resident blocks, peak and budget."""

    message: str


@dataclass(frozen=True)
class Notice:
    """Something the user should know that is not an error: padded audio, a cut clip."""

    message: str


@dataclass(frozen=True, repr=False)
class GenerationResult:
    """The result of a generation; `as_json()` is the output of `--report json`."""

    output_path: Path
    width: int
    height: int
    num_frames: int
    frame_rate: float
    seed: int
    elapsed_seconds: float
    peak_vram_gib: float
    phases: dict[str, float]
    """Seconds per phase, in execution order."""
    model_version: str
    quality: str = "standard"
    """As in the request: "standard" or "fast"."""
    notices: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        details = fields.pop("details")
        return {**fields, "output_path": str(self.output_path), "notices": list(self.notices), **details}

    def __repr__(self) -> str:
        """What a notebook shows for it: the file and its size, the seconds and the memory."""
        return (
            f"GenerationResult({str(self.output_path)!r}, {self.width}x{self.height}, {self.num_frames} frames, "
            f"{self.elapsed_seconds:.1f} s, peak {self.peak_vram_gib:.2f} GiB)"
        )


@dataclass(frozen=True)
class Done:
    """The last event of every generation: its result."""

    result: GenerationResult


Event = Planned | WindowStarted | PhaseStarted | StepFinished | Previewed | PhaseFinished | Notice | Done
