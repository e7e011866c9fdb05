"""Steps round where the reference rounds: the prediction and the velocity of a step are in the working dtype."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from ltx_a2v.diffusion.guidance import UNGUIDED, Pass
from ltx_a2v.diffusion.latents import LatentGrid, StageLatent
from ltx_a2v.diffusion.sampler import denoise

GRID = LatentGrid(1, 8, 8)


class Constant:
    """A forward whose velocity is the same everywhere and always."""

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity

    def velocities(self, latent: Tensor, sigma: Tensor) -> dict[Pass, Tensor]:
        return {Pass.POSITIVE: self.velocity}


def exactly(value: Fraction) -> float:
    """Rounded once to bfloat16."""
    return torch.tensor(float(value), dtype=torch.float64).bfloat16().item()


def rounded_step(latent: float, velocity: float, sigma: float, following: float) -> float:
    """The reference's step on exact numbers: x0, the velocity towards it and the new latent are each rounded once."""
    x0 = exactly(Fraction(latent) - Fraction(velocity) * Fraction(sigma))
    towards = exactly((Fraction(latent) - Fraction(x0)) / Fraction(sigma))
    return exactly(Fraction(latent) + Fraction(towards) * (Fraction(following) - Fraction(sigma)))


def test_a_bf16_step_rounds_prediction_and_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    latent, velocity = (torch.randn(1, GRID.tokens, 16, generator=generator).bfloat16() for _ in range(2))
    start = StageLatent(GRID, latent, torch.zeros_like(latent), torch.ones(1, 1, 1, 1))
    sigmas = torch.tensor([0.7, 0.45])
    ((result, _),) = denoise(Constant(velocity).velocities, start, sigmas, UNGUIDED)

    pairs = zip(latent.flatten().tolist(), velocity.flatten().tolist(), strict=True)
    expected = torch.tensor([rounded_step(x, v, *sigmas.tolist()) for x, v in pairs]).view(result.shape)
    assert result.dtype == torch.bfloat16
    assert (result.float() != expected).float().mean() < 0.005  # where float32 falls on the other side of a half
