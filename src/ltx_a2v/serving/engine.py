"""The worker's pipeline. Importing this module is the expensive part of a start; it touches no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidMode
from ltx_a2v.events import Event
from ltx_a2v.pipeline import A2VPipeline
from ltx_a2v.request import GenerationRequest


class Engine:
    """The pipeline as the worker takes it. Weights are read when a phase needs them, so there is nothing to prepare."""

    def __init__(self, pipeline: A2VPipeline) -> None:
        self._pipeline = pipeline

    def plan(self, request: GenerationRequest) -> None:
        """The pipeline makes no plan yet; it would raise `BudgetTooSmall` here."""

    def prepare(self, request: GenerationRequest | None = None) -> None:
        """Load what the plan keeps."""

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        return self._pipeline.generate(request)


def open_pipeline(settings: dict[str, Any]) -> Engine:
    """`settings` are `ServerSettings.for_worker()`. Raises `InvalidModel`, `InvalidMode` and `InvalidInput`."""
    for name in ("transformer_quantization", "text_encoder_quantization", "vram_budget"):
        if settings[name] is not None:
            raise InvalidMode(f"--{name.replace('_', '-')} {settings[name]} is not available in this version.")
    paths = ModelPaths(**{name: Path(path) for name, path in settings["paths"].items()})
    return Engine(A2VPipeline.open(paths, device=settings["device"]))
