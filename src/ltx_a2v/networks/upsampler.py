"""The latent x2 upsampler between the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.diffusers_modules import LTX2LatentUpsamplerModel
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.versions import LatentLayout

GROUPS = 32
"""Of the upsampler's `GroupNorm`s, which refuse groups of a single value."""


def build_upsampler(arguments: Mapping[str, Any]) -> LTX2LatentUpsamplerModel:
    return on_meta(LTX2LatentUpsamplerModel, **arguments)


def check_size(arguments: Mapping[str, Any], latents: LatentLayout, num_frames: int, height: int, width: int) -> None:
    """Raises `InvalidRequest` where the first stage's latent is so small that a group to normalise is one value.

    `height` and `width` are the video's in pixels. An upsampler of more than 32 channels takes every size.
    """
    multiple = latents.size_multiple
    latent = num_frames // latents.temporal_factor + 1, height // multiple, width // multiple
    if arguments["mid_channels"] // GROUPS * math.prod(latent) == 1:
        reason = (
            f"is too few at {width}x{height} for this upsampler; use {latents.temporal_factor + 1}, or a larger size"
        )
        raise InvalidRequest("num_frames", num_frames, reason)


def upsample(upsampler: LTX2LatentUpsamplerModel, latent: Tensor, statistics: ChannelStatistics) -> Tensor:
    """[1, C, F, H, W] -> [1, C, F, 2H, 2W]; it works on un-normalised latents (reference: `upsample_video`)."""
    return statistics.normalize(upsampler(statistics.denormalize(latent)))
