"""The latent of one stage in packed token layout, and how noise enters it.

Noise is drawn as in the reference, so that the same seed gives the same picture: in packed layout and the working
dtype, from one generator per request; the video's first, then the audio's, which is drawn although the audio is not
noised; stage 2 continues the same generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx_a2v.versions import LatentLayout


@dataclass(frozen=True)
class LatentGrid:
    """Latent frames, rows and columns; tokens run through columns first."""

    frames: int
    height: int
    width: int

    @classmethod
    def of_video(cls, num_frames: int, height: int, width: int, layout: LatentLayout) -> LatentGrid:
        """Of a video with frames of `height` x `width` pixels, which fit the layout."""
        cell = layout.spatial_factor
        return cls((num_frames - 1) // layout.temporal_factor + 1, height // cell, width // cell)

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
class HeldPicture:
    """What the video shows at a frame. What is shown from frame 0 on, a picture or several frames, takes the place of
    the first latent frames; any other picture is appended to the latent as tokens of its own, which are dropped after
    the stage."""

    latent: Tensor
    """[1, C, 1, H, W], or more latent frames for what is shown from frame 0 on."""
    frame: int
    """Of what is computed; negative for a picture that is shown before it."""
    strength: float | tuple[float, ...]
    """1 holds it as it is, 0 ignores it; of all its latent frames, or of each."""


@dataclass(frozen=True)
class StageLatent:
    """The start of a stage. `noisy` and `clean` are [1, tokens, C]: the grid's latent frames, then the appended
    pictures. `mask` is [1, frames + appended, 1, 1] float32: 1 where the sampler may change the latent, 1 - strength
    where a picture is held."""

    grid: LatentGrid
    noisy: Tensor
    clean: Tensor
    mask: Tensor

    def per_token(self, values: Tensor) -> Tensor:
        """[1, frames + appended, 1, 1] -> [1, tokens, 1]."""
        return values.expand(-1, -1, self.grid.frame_tokens, 1).reshape(1, -1, 1)


def start_stage(
    grid: LatentGrid,
    initial: Tensor,
    pictures: Sequence[HeldPicture],
    noise_scale: float,
    generator: torch.Generator | None,
    audio_tokens: Tensor,
) -> StageLatent:
    """Noise the `initial` latent [1, C, F, H, W] and hold the `pictures`. Appended ones start from 0.

    `noisy = clean (1 - mask) + mask (initial (1 - scale) + noise scale)` (reference: `GaussianNoiser`).
    """
    appended = [picture for picture in pictures if picture.frame]
    start = grid.pack(initial)
    if appended:
        start = torch.cat([start, start.new_zeros(1, len(appended) * grid.frame_tokens, start.shape[2])], dim=1)
    clean, mask = start.clone(), torch.ones(1, grid.frames + len(appended), 1, 1, device=start.device)
    first = [picture for picture in pictures if not picture.frame]
    for place, picture in [(0, p) for p in first] + list(enumerate(appended, start=grid.frames)):
        end = place + picture.latent.shape[2]
        clean[:, place * grid.frame_tokens : end * grid.frame_tokens] = grid.pack(picture.latent)
        mask[:, place:end] = _changes(picture).to(mask)
    noise = _draw(start, generator)
    _draw(audio_tokens, generator)
    stage = StageLatent(grid, start, clean, mask)
    noised = torch.lerp(start.float(), noise.float(), noise_scale)
    noisy = torch.lerp(clean.float(), noised, stage.per_token(mask)).to(start.dtype)
    return StageLatent(grid, noisy, clean, mask)


def _changes(picture: HeldPicture) -> Tensor:
    """[1 or latent frames, 1, 1]: how much the sampler may change."""
    strengths = picture.strength if isinstance(picture.strength, tuple) else (picture.strength,)
    return torch.tensor([1 - strength for strength in strengths]).view(-1, 1, 1)


def _draw(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
