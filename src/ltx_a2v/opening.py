"""A pipeline as the settings say."""

from __future__ import annotations

import torch

from ltx_a2v.pipeline import A2VPipeline
from ltx_a2v.quantization import parse_blocks
from ltx_a2v.settings.loading import LoadOptions
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
            loras=settings.loras,
            exact_passes=settings.exact_passes,
            budget=settings.budget,
            host_memory=settings.host_limit,
        ),
    )
