"""The worker's pipeline. Importing this module is the expensive part of a start; it touches no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.events import Event
from ltx_a2v.options import LoadOptions
from ltx_a2v.pipeline import A2VPipeline
from ltx_a2v.request import GenerationRequest
from ltx_a2v.residency.budget import Budget


class Engine:
    """The pipeline as the worker takes it."""

    def __init__(self, pipeline: A2VPipeline) -> None:
        self._pipeline = pipeline

    def plan(self, request: GenerationRequest) -> None:
        """Raises `BudgetTooSmall` when the request does not fit into what is free now."""
        self._pipeline.plan(request)

    def prepare(self, request: GenerationRequest | None = None) -> None:
        """Bring the weights to where they stay between requests."""
        self._pipeline.prepare(request)

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        return self._pipeline.generate(request)


def open_pipeline(settings: dict[str, Any]) -> Engine:
    """`settings` are `ServerSettings.for_worker()`. Raises `InvalidModel`, `InvalidMode` and `InvalidInput`.

    Weights stay on the device between requests where all of them fit, else in host memory; a worker that is told to
    unload ends, and both with it.
    """
    options = LoadOptions(
        transformer_quantization=settings["transformer_quantization"],
        text_encoder_quantization=settings["text_encoder_quantization"] or "none",
        budget=Budget(settings["vram_budget"] or "auto"),
        keep="device",
    )
    paths = ModelPaths(**{name: Path(path) for name, path in settings["paths"].items()})
    return Engine(A2VPipeline.open(paths, device=settings["device"], options=options))
