"""The sigmas of the two stages, by a version's `Schedule`: [steps + 1] float32 on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltx_a2v.versions import Schedule


def stage_1_sigmas(steps: int, schedule: Schedule) -> Tensor:
    """Shifted linear from 1, stretched so that the last but one is the terminal sigma, then 0.

    One step has nothing to stretch: 1, 0.
    """
    linear = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    shifted = math.exp(schedule.shift) / (math.exp(schedule.shift) + (1 / linear - 1))
    if steps > 1:
        remaining = 1 - shifted
        shifted = 1 - remaining / (remaining[-1] / (1 - schedule.terminal_sigma))
    return torch.cat([shifted, torch.zeros(1)])


def distilled_sigmas(schedule: Schedule) -> Tensor:
    """Of stage 1, for weights that were distilled or have the distilled LoRA."""
    return torch.tensor(schedule.distilled)


def stage_2_sigmas(schedule: Schedule) -> Tensor:
    return torch.tensor(schedule.stage_2)
