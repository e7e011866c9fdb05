"""`auto`, the default of the transformer's quantization: the checkpoint's own format where it stays on the GPU, else
int8.

A checkpoint in bfloat16 that does not fit is copied to the device in part at every step (14.4 GiB per step within 24
GiB, by `plan`); stored as int8 it is half as large. A checkpoint that is quantized already, or a CPU, keeps its format.
"""

from __future__ import annotations

import torch

from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.fitting import VideoShape
from ltx_a2v.hardware.budget import gib
from ltx_a2v.model.model import Model
from ltx_a2v.planning.plan import DENOISING, Keep, Plan
from ltx_a2v.planning.planner import Planner

AUTO = "auto"
SMALLER = "int8"
DEVICES = ("cuda",)
"""Types of devices on which copying weights at every step costs time."""


def reason_for_smaller(model: Model, planner: Planner, shape: VideoShape, budget: int | None, keep: Keep) -> str | None:
    """Why `auto` stores the transformer as `SMALLER`, in a few words; None where the file's own format stays."""
    if model.device.type not in DEVICES or model.transformer_policy.mode != "none" or budget is None:
        return None
    if model.dtype != torch.bfloat16:
        return None
    weights = model.sizes["transformer"].total
    if weights > budget:  # known without a plan, which takes seconds
        return f"the file's own format takes {gib(weights)}, the budget is {gib(budget)}"
    try:
        plan = planner.plan(shape, budget, keep)
    except BudgetTooSmall:
        return "the file's own format does not fit"
    streamed = copied(plan)
    return f"the file's own format would copy {streamed}" if streamed else None


def copied(plan: Plan) -> str:
    """What steps copy to the device, as `14.40 GiB at each step`; empty where every block is resident."""
    swept = [plan.placements[name] for name in DENOISING if name in plan.placements]
    if all(placement.resident_blocks is None for placement in swept):
        return ""
    if not plan.bus_bytes_per_step:
        return "blocks of the distilled LoRA in stage 2"
    return f"{gib(plan.bus_bytes_per_step)} at each step"


def plan_in_one_line(plan: Plan, model: Model, reason: str | None) -> str:
    """Format, resident blocks, peak and budget; `reason` is why `auto` chose the format, or None without `auto`."""
    mode = model.transformer_policy.mode
    why = "" if reason is None else f" (auto: {reason})"
    resident = plan.placements["transformer"].resident_blocks
    copies = copied(plan)
    where = "all blocks resident" if resident is None else f"{resident} of {model.config.num_layers} blocks resident"
    where += f", copies {copies}" if copies else ""
    limit = "no limit" if plan.budget is None else f"of {gib(plan.budget)}"
    name = "unquantized" if mode == "none" else mode
    return f"transformer {name}{why}, {where}; peak {gib(plan.peak)}, {limit}, on {model.device}."
