"""Sigma schedules of the two stages (reference: `LTX2Scheduler`, `STAGE_2_DISTILLED_SIGMAS`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHIFT = 2.05
"""The shift of 4096 tokens, which the reference uses for every size."""
TERMINAL_SIGMA = 0.1
STAGE_2_SIGMAS = (0.909375, 0.725, 0.421875, 0.0)


def stage_1_sigmas(steps: int) -> Tensor:
    """[steps + 1] float32: shifted linear from 1, stretched so that the last but one is 0.1, then 0.

    One step has nothing to stretch: 1, 0.
    """
    linear = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    shifted = math.exp(SHIFT) / (math.exp(SHIFT) + (1 / linear - 1))
    if steps > 1:
        remaining = 1 - shifted
        shifted = 1 - remaining / (remaining[-1] / (1 - TERMINAL_SIGMA))
    return torch.cat([shifted, torch.zeros(1)])


def stage_2_sigmas() -> Tensor:
    return torch.tensor(STAGE_2_SIGMAS)
