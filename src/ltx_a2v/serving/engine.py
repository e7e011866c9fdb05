"""The worker's pipeline. Importing this module is the expensive part of a start; it touches no GPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from ltx_a2v.serving.worker import Pipeline

_pipeline = importlib.import_module("ltx_a2v.pipeline")


def open_pipeline(settings: dict[str, Any]) -> Pipeline:
    """`settings` are `ServerSettings.for_worker()`. Raises `InvalidModel` and `InvalidMode`."""
    options = _pipeline.LoadOptions(
        transformer_quantization=settings["transformer_quantization"],
        text_encoder_quantization=settings["text_encoder_quantization"],
        vram_budget=settings["vram_budget"],
    )
    pipeline = _pipeline.A2VPipeline.open(_paths(settings), device=settings["device"], options=options)
    return cast(Pipeline, pipeline)


def _paths(settings: dict[str, Any]) -> Any:
    if settings["model_dir"] is not None:
        return _pipeline.ModelPaths.discover(Path(settings["model_dir"]))
    names = {
        "checkpoint": "checkpoint_path",
        "distilled_lora": "distilled_lora_path",
        "spatial_upsampler": "spatial_upsampler_path",
        "gemma_root": "gemma_root",
    }
    return _pipeline.ModelPaths(**{name: Path(settings[key]) for name, key in names.items()})
