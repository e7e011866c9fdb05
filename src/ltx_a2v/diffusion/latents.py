"""The latent of one stage in packed token layout, and how noise enters it.

Noise is drawn as the reference draws it, so that a seed means the same picture: in packed layout and the working
dtype, from one generator per request; the video's first, then the audio's, which is drawn although the audio is not
noised; stage 2 continues the same generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltx_a2v.settings.defaults import SPATIAL_FACTOR, TEMPORAL_FACTOR


@dataclass(frozen=True)
class LatentGrid:
    """Latent frames, rows and columns; tokens run through columns first."""

    frames: int
    height: int
    width: int

    @classmethod
    def of_video(cls, num_frames: int, height: int, width: int) -> LatentGrid:
        return cls((num_frames - 1) // TEMPORAL_FACTOR + 1, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR)

    @property
    def frame_tokens(self) -> int:
        return self.height * self.width

    @property
    def tokens(self) -> int:
        return self.frames * self.frame_tokens

    def pack(self, latent: Tensor) -> Tensor:
        """[1, C, F, H, W] -> [1, F*H*W, C]."""
        return latent.flatten(2).transpose(1, 2)

    def unpack(self, tokens: Tensor) -> Tensor:
        """[1, F*H*W, C] -> [1, C, F, H, W]."""
        return tokens.transpose(1, 2).unflatten(2, (self.frames, self.height, self.width))


@dataclass(frozen=True)
class StageLatent:
    """What a stage starts from. `noisy` and `clean` are [1, tokens, 128]; `mask` is [1, frames, 1, 1] float32: 1 where
    the sampler may change the latent, 1 - strength in the frame that the picture gave."""

    grid: LatentGrid
    noisy: Tensor
    clean: Tensor
    mask: Tensor

    def per_token(self, values: Tensor) -> Tensor:
        """[1, frames, 1, 1] -> [1, tokens, 1]."""
        return values.expand(1, self.grid.frames, self.grid.frame_tokens, 1).reshape(1, -1, 1)


def start_stage(
    grid: LatentGrid,
    initial: Tensor,
    picture: Tensor | None,
    strength: float,
    noise_scale: float,
    generator: torch.Generator | None,
    audio_tokens: Tensor,
) -> StageLatent:
    """Noise the `initial` latent [1, 128, F, H, W] and hold the `picture`'s latent [1, 128, 1, H, W] in frame 0.

    `noisy = clean (1 - mask) + mask (initial (1 - scale) + noise scale)` (reference: `GaussianNoiser`).
    """
    start = grid.pack(initial)
    clean, mask = start.clone(), torch.ones(1, grid.frames, 1, 1, device=start.device)
    if picture is not None:
        clean[:, : grid.frame_tokens] = picture.flatten(2).transpose(1, 2)
        mask[:, 0] = 1 - strength
    noise = _draw(start, generator)
    _draw(audio_tokens, generator)
    stage = StageLatent(grid, start, clean, mask)
    noised = torch.lerp(start.float(), noise.float(), noise_scale)
    noisy = torch.lerp(clean.float(), noised, stage.per_token(mask)).to(start.dtype)
    return StageLatent(grid, noisy, clean, mask)


def _draw(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
