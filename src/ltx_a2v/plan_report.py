"""What to run beside other services: the plan for each of several budgets, as a table or as JSON."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.residency.budget import GIB, gib
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.plan import Plan

LADDER = ("5GiB", "8GiB", "12GiB", "16GiB", "24GiB", "32GiB", "48GiB", "unlimited")
PROBE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Row:
    mode: str
    budget: str
    plan: Plan | None
    refusal: str = ""

    def as_json(self, speeds: Speeds | None) -> dict[str, Any]:
        if self.plan is None:
            return {"mode": self.mode, "budget": self.budget, "fits": False, "why": self.refusal}
        plan = self.plan
        row: dict[str, Any] = {
            "mode": self.mode,
            "budget": self.budget,
            "fits": True,
            "peak_gib": round(plan.peak / GIB, 3),
            "host_gib": round(plan.host_bytes / GIB, 3),
            "bus_gib_per_step": round(plan.bus_bytes_per_step / GIB, 3),
            "phases": {phase.name: round(phase.peak / GIB, 3) for phase in plan.phases},
            "networks": {name: where(placement) for name, placement in plan.placements.items()},
        }
        if speeds is not None:
            row["transfer_seconds_per_step"] = round(speeds.per_step(plan), 3)
        return row


@dataclass(frozen=True)
class Speeds:
    """Bytes per second on this machine, as measured; the bus only where there is a GPU."""

    disk: float
    bus: float | None

    def per_step(self, plan: Plan) -> float:
        """Seconds that the streamed weights of one step of stage 1 are under way; computing hides what it can."""
        from_file = plan.placements["transformer"].home == "file"
        speed = self.disk if from_file or self.bus is None else self.bus
        return plan.bus_bytes_per_step / speed


def try_budget(mode: str, budget: str, make: Any) -> Row:
    try:
        return Row(mode, budget, make())
    except BudgetTooSmall as error:
        return Row(mode, budget, None, str(error))


def where(placement: Placement) -> str:
    if placement.resident_blocks is None:
        return "resident"
    return f"{placement.resident_blocks} blocks resident, others from {placement.home}"


def print_table(rows: list[Row], speeds: Speeds | None, title: str) -> None:
    table = Table(title=title, title_justify="left")
    columns = ["mode", "budget", "peak", "host memory", "over the bus per step", "transformer"]
    for column in columns + (["transfer per step"] if speeds else []):
        table.add_column(column)
    for row in rows:
        if row.plan is None:
            table.add_row(row.mode, row.budget, "-", "-", "-", row.refusal, *(["-"] if speeds else []))
            continue
        plan = row.plan
        table.add_row(
            row.mode,
            row.budget,
            gib(plan.peak),
            gib(plan.host_bytes),
            gib(plan.bus_bytes_per_step),
            where(plan.placements["transformer"]),
            *([f"{speeds.per_step(plan):.2f} s"] if speeds else []),
        )
    Console().print(table)


def measure_speeds(checkpoint: Path, device: torch.device) -> Speeds:
    """Read the beginning of the checkpoint, past the page cache where the system allows it, and copy to the device."""
    return Speeds(_disk_speed(checkpoint), _bus_speed(device) if device.type == "cuda" else None)


def _disk_speed(path: Path) -> float:
    size = min(PROBE_BYTES, path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        started, done = time.perf_counter(), 0
        while done < size:
            done += len(file.read(min(2**24, size - done)))
    return size / (time.perf_counter() - started)


def _bus_speed(device: torch.device) -> float:
    source = torch.empty(PROBE_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(PROBE_BYTES, dtype=torch.uint8, device=device)
    target.copy_(source)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(4):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    return 4 * PROBE_BYTES / (time.perf_counter() - started)
