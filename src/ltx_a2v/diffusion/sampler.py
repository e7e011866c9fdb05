"""The denoising loop: Euler steps on a rectified flow, with part of the latent held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ltx_a2v.diffusion.guidance import Pass, combine, computes
from ltx_a2v.diffusion.latents import StageLatent
from ltx_a2v.request import Guidance

Velocities = Callable[[Tensor, Tensor], dict[Pass, Tensor]]
"""Packed latent [1, tokens, channels] and sigma -> the velocity [1, tokens, channels] of every pass."""


class Step(NamedTuple):
    """What a step has made, both [1, tokens, channels]."""

    latent: Tensor
    estimate: Tensor
    """Of the latent without noise."""


def denoise(velocities_of: Velocities, start: StageLatent, sigmas: Tensor, guidance: Guidance) -> Iterator[Step]:
    """Yield the packed latent after every step; the last one is the stage's result.

    `sigmas` [steps + 1] stay on the CPU in float32, in which the reference computes with them.
    """
    latent = start.noisy
    mask = start.per_token(start.mask)
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        if computes(step, guidance):  # else the last prediction is used again
            velocities = velocities_of(latent, sigma)
            predictions = {kind: _x0(latent, velocity, mask * sigma) for kind, velocity in velocities.items()}
            guided = combine(predictions, guidance)
        held = (guided * mask + start.clean.float() * (1 - mask)).to(guided.dtype)
        latent = _euler_step(latent, held, sigma, following)
        yield Step(latent, held)


def _x0(latent: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    return (latent.float() - velocity.float() * sigma).to(latent.dtype)


def _euler_step(latent: Tensor, x0: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    velocity = ((latent.float() - x0.float()) / sigma.item()).to(latent.dtype)
    return (latent.float() + velocity.float() * (following - sigma)).to(latent.dtype)
