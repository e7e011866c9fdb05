"""The diffusion transformer: diffusers' LTX-2 module, built from the checkpoint's config."""

from __future__ import annotations

import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import nn

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.model.files import Entries
from ltx_a2v.model.recipe import Recipe
from ltx_a2v.networks.build import on_meta
from ltx_a2v.quantization.policy import QuantizationPolicy

BLOCKS = "transformer_blocks"


def build_transformer(config: ModelConfig) -> LTX2VideoTransformer3DModel:
    return on_meta(LTX2VideoTransformer3DModel, **config.transformer_arguments())


def transformer_recipe(
    config: ModelConfig,
    entries: Entries,
    dtype: torch.dtype,
    policy: QuantizationPolicy,
    already_converted: bool = False,
) -> Recipe:
    return Recipe(
        "transformer",
        lambda: build_transformer(config),
        entries,
        dtype,
        policy.apply,
        policy.convert,
        already_converted,
        (BLOCKS,),
        key_map=keys.TRANSFORMER,
    )


def linear_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """[out, in] of every linear layer, by name."""
    layers = transformer.named_modules()
    return {name: (layer.out_features, layer.in_features) for name, layer in layers if isinstance(layer, nn.Linear)}
