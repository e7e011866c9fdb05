"""The plans for several budgets, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ltx_a2v.cli.flags import flag_name
from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.hardware.budget import GIB, at_least, gib
from ltx_a2v.planning.plan import Plan
from ltx_a2v.planning.prediction import Prediction
from ltx_a2v.planning.probe import Speeds
from ltx_a2v.residency.network import Placement

LADDER = ("5GiB", "8GiB", "12GiB", "16GiB", "24GiB", "32GiB", "48GiB", "unlimited")


@dataclass(frozen=True)
class Row:
    """The plan of one mode within one budget, or why there is none."""

    mode: str
    budget: str
    plan: Plan | None
    refusal: str = ""
    prediction: Prediction | None = None

    def as_json(self) -> dict[str, Any]:
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
            "smallest_budget_gib": round(plan.smallest / GIB, 3),
            "phases": {phase.name: round(phase.peak / GIB, 3) for phase in plan.phases},
            "networks": {name: where(placement) for name, placement in plan.placements.items()},
            "notes": list(plan.notes),
        }
        if self.prediction is not None:
            predicted = {name: round(value, 3) for name, value in asdict(self.prediction).items()}
            row["seconds"] = predicted | {"total": round(self.prediction.total, 3)}
        return row


def try_budget(mode: str, budget: str, make: Callable[[], Plan], predict: Callable[[Plan], Prediction] | None) -> Row:
    try:
        plan = make()
    except BudgetTooSmall as error:
        return Row(mode, budget, None, error.worded(flag_name))
    return Row(mode, budget, plan, "", predict(plan) if predict else None)


def where(placement: Placement) -> str:
    if placement.resident_blocks is None:
        return "resident"
    return f"{placement.resident_blocks} blocks resident, others from {placement.home}"


def print_table(rows: list[Row], speeds: Mapping[str, Speeds], title: str) -> None:
    """One line per plan; below them what some plans have in common, and what was measured."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("budget", "mode"):
        table.add_column(column, no_wrap=True)
    for column in ("peak", "RAM", "copied", "resident", *(("step", "step 2", "video") if speeds else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.budget, row.mode, *_cells(row))
    console = Console()
    console.print(table)
    for line in _explained(rows, speeds):
        console.print(line, highlight=False)


def _cells(row: Row) -> list[str]:
    plan, prediction = row.plan, row.prediction
    if plan is None:
        return ["too small"]
    resident = plan.placements["transformer"].resident_blocks
    cells = [_in_gib(plan.peak), _in_gib(plan.host_bytes), _in_gib(plan.bus_bytes_per_step)]
    cells.append("all" if resident is None else str(resident))
    if prediction is not None:
        cells += [f"{prediction.step_1:.2f}", f"{prediction.step_2:.2f}", f"{prediction.total:.0f}"]
    return cells


def _in_gib(count: int) -> str:
    return f"{count / GIB:.2f}" if count else "-"


def best(rows: list[Row]) -> Row | None:
    """The fastest plan where times were measured, else the one that copies least; of equal ones the first."""
    fitting = [row for row in rows if row.plan is not None]
    return min(fitting, key=_cost, default=None)


def _cost(row: Row) -> float:
    if row.prediction is not None:
        return row.prediction.total
    return float(row.plan.bus_bytes_per_step) if row.plan is not None else 0.0


def _explained(rows: list[Row], speeds: Mapping[str, Speeds]) -> Iterator[str]:
    yield (
        "GiB. peak: device memory. RAM: copies of weights. copied: to the device at each step of stage 1. resident: "
        "blocks of the transformer that stay on the device. A mode gives the same bytes within every budget."
    )
    if speeds:
        yield "In seconds, step and step 2: one step of either stage; video: all of a generation, from nothing loaded."
    for mode, plan in {row.mode: row.plan for row in rows if row.plan is not None}.items():
        largest = max(plan.phases, key=lambda phase: phase.activations)
        yield (
            f"{mode}: the smallest budget at this size is {at_least(plan.smallest)}; besides weights, "
            f"{largest.name} takes most, {gib(largest.activations)}."
        )
    if refusal := next((row.refusal for row in rows if row.refusal), ""):
        yield f"too small: {refusal}"
    if noted := [row for row in rows if row.plan and row.plan.notes]:
        yield f"{', '.join(dict.fromkeys(row.budget for row in noted))}: {_most_of(noted)}"
    for mode, speed in speeds.items():
        yield f"{mode}: {_said(speed)}"


def _most_of(rows: list[Row]) -> str:
    """The notes of several plans differ in amounts: those of the plan that needs most hold for all."""
    plans = [row.plan for row in rows if row.plan is not None]
    return " ".join(max(plans, key=lambda plan: plan.bus_bytes_per_step).notes)


def _said(speeds: Speeds) -> str:
    sample = "one block and a piece of the decoder"
    sample += ", on fewer frames than the video has" if speeds.extrapolated else ", at full size"
    copies = "run while the device computes" if speeds.overlaps else "and computing take turns"
    return (
        f"measured here: reading {_rate(speeds.read)}, copying to the device {_rate(speeds.copy)}, {sample}. "
        f"Estimated from that: steps, decoding and the text encoder; copies {copies}. Left out: the encoders of "
        "picture and sound, the upsampler and writing the file."
    )


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.2f} GB/s"
