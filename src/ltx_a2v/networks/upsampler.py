"""The latent x2 upsampler between the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from torch import Tensor

from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.video_vae import ChannelStatistics


def build_upsampler(arguments: Mapping[str, Any]) -> LTX2LatentUpsamplerModel:
    return on_meta(LTX2LatentUpsamplerModel, **arguments)


def upsample(upsampler: LTX2LatentUpsamplerModel, latent: Tensor, statistics: ChannelStatistics) -> Tensor:
    """[1, C, F, H, W] -> [1, C, F, 2H, 2W]; it works on un-normalised latents (reference: `upsample_video`)."""
    return statistics.normalize(upsampler(statistics.denormalize(latent)))
