"""The diffusion transformer: diffusers' LTX-2 module, built from the checkpoint's config."""

from __future__ import annotations

from torch import nn

from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.diffusers_modules import LTX2VideoTransformer3DModel
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.versions import ModelConfig

BLOCKS = "transformer_blocks"


def build_transformer(config: ModelConfig) -> LTX2VideoTransformer3DModel:
    return on_meta(LTX2VideoTransformer3DModel, **config.transformer)


def transformer_blueprint(config: ModelConfig, entries: Entries) -> Blueprint:
    keys = config.version.keys.transformer
    return Blueprint("transformer", lambda: build_transformer(config), entries, keys, (BLOCKS,))


def linear_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """[out, in] of every linear layer, by name."""
    layers = transformer.named_modules()
    return {name: (layer.out_features, layer.in_features) for name, layer in layers if isinstance(layer, nn.Linear)}
