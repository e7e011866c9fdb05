"""The audio VAE's encoder: log-mel spectrogram -> normalised latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.diffusers_modules import AutoencoderKLLTX2Audio
from ltx_a2v.versions import ModelConfig


class AudioEncoder(nn.Module):
    """diffusers' encoder with the statistics of its latents, named as the key map names them."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vae = AutoencoderKLLTX2Audio(**config.audio_vae)
        self.encoder = vae.encoder
        self.register_buffer("latents_mean", vae.latents_mean)
        self.register_buffer("latents_std", vae.latents_std)

    def forward(self, mel: Tensor) -> Tensor:
        """[1, 2, frames, bins] -> [1, 8, T, 16], one latent step per 4 mel frames.

        The mean is normalised in packed layout: one statistic per (channel, bin) pair (reference: `AudioEncoder`).
        """
        mean = self.encoder(mel).chunk(2, dim=1)[0]  # [1, C, T, M]
        packed = pack_audio(mean)
        return unpack_audio((packed - self.latents_mean) / self.latents_std, bins=mean.shape[3])


def pack_audio(latent: Tensor) -> Tensor:
    """[B, C, T, M] -> tokens [B, T, C*M]."""
    return latent.transpose(1, 2).flatten(2)


def unpack_audio(tokens: Tensor, bins: int) -> Tensor:
    """Tokens [B, T, C*M] -> [B, C, T, M]."""
    return tokens.unflatten(2, (-1, bins)).transpose(1, 2)


def build_audio_encoder(config: ModelConfig) -> AudioEncoder:
    return on_meta(AudioEncoder, config=config)


def latent_steps(seconds: float, per_second: int) -> int:
    """At least one, for a single frame at a high rate as well."""
    return max(1, round(per_second * seconds))


def fit_length(latent: Tensor, length: int) -> Tensor:
    """Cut to `length` steps, or pad with zeros: [B, C, T, M] -> [B, C, length, M]."""
    latent = latent[:, :, :length]
    return torch.nn.functional.pad(latent, (0, 0, 0, length - latent.shape[2]))
