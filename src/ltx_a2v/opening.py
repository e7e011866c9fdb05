"""A pipeline as the settings say."""

from __future__ import annotations

from pathlib import Path

import torch

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.pipeline import A2VPipeline
from ltx_a2v.quantization import parse_blocks
from ltx_a2v.settings.loading import LoadOptions, StyleLora
from ltx_a2v.settings.model import ModelSettings


def open_pipeline(settings: ModelSettings) -> A2VPipeline:
    """Raises what `A2VPipeline.open` raises, and `InvalidRequest` for a setting that cannot be read."""
    return A2VPipeline.open(
        settings.model_paths,
        device=settings.device,
        dtype=getattr(torch, settings.dtype) if settings.dtype else None,
        options=LoadOptions(
            transformer_quantization=settings.transformer_quantization,
            keep_bf16_blocks=parse_blocks(settings.keep_bf16_blocks),
            text_encoder_quantization=settings.text_encoder_quantization,
            prompt_cache=settings.prompt_cache,
            loras=tuple(_style_lora(given) for given in settings.lora),
            exact_passes=settings.exact_passes,
            budget=settings.budget,
            host_memory=settings.host_limit,
        ),
    )


def _style_lora(given: str) -> StyleLora:
    path, separator, strength = given.rpartition(":")
    if not separator or _exists(given):
        return StyleLora(Path(given))
    try:
        return StyleLora(Path(path), float(strength))
    except ValueError:
        raise InvalidRequest(f"--lora {given!r}: {strength!r} is no strength; write PATH or PATH:0.8.") from None


def _exists(given: str) -> bool:
    try:
        return Path(given).exists()
    except OSError:  # too long for a name
        return False
