"""What fits: which weights are on the device in which phase, and the peak that follows.

A phase holds the weights of its networks and what its computation makes. Where that is more than the budget, blocks
are streamed instead of resident, as few as necessary; where even streaming all of them is too much, the plan says what
would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.residency.budget import gib
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import DEFAULT_SLOTS

Keep = Literal["device", "host", "nothing"]


@dataclass(frozen=True)
class Sizes:
    """Bytes of one network as stored: all that is in no block, and each block."""

    rest: int
    blocks: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.rest + sum(self.blocks)

    def on_device(self, placement: Placement) -> int:
        """While it is used. Blocks are alike, up to a few that are kept in bf16: the largest are counted."""
        count = len(self.blocks)
        resident = count if placement.resident_blocks is None else min(placement.resident_blocks, count)
        streamed = count - resident
        largest = max(self.blocks, default=0)
        return (
            self.rest
            + sum(sorted(self.blocks)[-resident:] if resident else ())
            + (min(placement.slots, streamed) * largest if streamed else 0)
        )

    def streamed(self, placement: Placement) -> int:
        """Bytes over the bus per sweep."""
        count = len(self.blocks)
        resident = count if placement.resident_blocks is None else min(placement.resident_blocks, count)
        return sum(sorted(self.blocks)[: count - resident])


@dataclass(frozen=True)
class PhaseNeed:
    """`networks` are on the device together; `activations` is the peak of what computing makes, in bytes."""

    name: str
    networks: tuple[str, ...]
    activations: int


@dataclass(frozen=True)
class PhasePlan:
    name: str
    weights: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.activations


@dataclass(frozen=True)
class Plan:
    budget: int | None
    placements: Mapping[str, Placement]
    phases: tuple[PhasePlan, ...]
    host_bytes: int
    """Weights that will be kept in host memory."""
    bus_bytes_per_step: int
    """Weights that cross the bus in each step of stage 1."""
    keep: Keep = "nothing"
    notes: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> int:
        return max(phase.peak for phase in self.phases)


def make_plan(
    sizes: Mapping[str, Sizes],
    needs: Sequence[PhaseNeed],
    budget: int | None,
    host_available: int,
    keep: Keep = "nothing",
    advice: str = "reduce --width, --height or --num-frames",
) -> Plan:
    """Raises `BudgetTooSmall`, naming the smallest budget that would do.

    `keep` is where weights may stay between requests; "device" falls back to "host" where not everything fits at once,
    and "host" to "nothing" where host memory is short.
    """
    everything = sum(size.total for size in sizes.values())
    most = max(need.activations for need in needs)
    if keep == "device" and budget is not None and everything + most > budget:
        keep = "host"
    if keep == "device":
        placements = {name: Placement("device") for name in sizes}
        phases = tuple(PhasePlan(need.name, everything, need.activations) for need in needs)
        return Plan(budget, placements, phases, 0, 0, keep)
    placements = _fit(sizes, needs, budget, advice)
    placements = _choose_homes(placements, sizes, host_available, keep)
    phases = tuple(
        PhasePlan(n.name, sum(sizes[name].on_device(placements[name]) for name in n.networks), n.activations)
        for n in needs
    )
    host = sum(sizes[name].total for name, placement in placements.items() if placement.home == "host")
    bus = sum(sizes[name].streamed(placements[name]) for name in _networks_of(needs, "stage_1"))
    return Plan(budget, placements, phases, host, bus, "host" if keep == "host" and host else "nothing")


def smallest_budget(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed]) -> int:
    leanest = {name: _leanest(size) for name, size in sizes.items()}
    return max(_peak(sizes, leanest, need) for need in needs)


def _fit(
    sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed], budget: int | None, advice: str
) -> dict[str, Placement]:
    """Resident blocks of each network, as many as fit in every phase that it takes part in.

    Networks that share a phase are reduced in the order in which they are named there, last first: LoRA factors before
    the transformer, whose bytes every step needs.
    """
    placements = {name: Placement(resident_blocks=None) for name in sizes}
    if budget is None:
        return placements
    for need in needs:
        for name in reversed(need.networks):
            if _peak(sizes, placements, need) <= budget:
                break
            placements[name] = _reduce(sizes, placements, need, name, budget)
        if _peak(sizes, placements, need) > budget:
            smallest = smallest_budget(sizes, needs)
            raise BudgetTooSmall(
                f"A VRAM budget of {gib(budget)} cannot hold this: {need.name} needs "
                f"{gib(_peak(sizes, placements, need))} with all blocks streamed; the smallest budget that works is "
                f"{gib(smallest)}, or {advice}."
            )
    return placements


def _reduce(
    sizes: Mapping[str, Sizes], placements: dict[str, Placement], need: PhaseNeed, name: str, budget: int
) -> Placement:
    """The most resident blocks with which the phase fits, or what takes least."""
    count = len(sizes[name].blocks)
    current = placements[name].resident_blocks
    for resident in range(count if current is None else current, -1, -1):
        candidate = _with_blocks(sizes[name], resident)
        if _peak(sizes, {**placements, name: candidate}, need) <= budget:
            return candidate
    return _leanest(sizes[name])


def _leanest(size: Sizes) -> Placement:
    """All blocks streamed, unless they are so few or so unlike that the slots would take more than they do."""
    streamed, resident = _with_blocks(size, 0), Placement(resident_blocks=None)
    return min(streamed, resident, key=size.on_device)


def _with_blocks(size: Sizes, resident: int) -> Placement:
    """With that many blocks resident; None stands for all of them."""
    return Placement(resident_blocks=None if len(size.blocks) - resident <= 0 else resident, slots=DEFAULT_SLOTS)


def _peak(sizes: Mapping[str, Sizes], placements: Mapping[str, Placement], need: PhaseNeed) -> int:
    return need.activations + sum(sizes[name].on_device(placements[name]) for name in need.networks)


def _choose_homes(
    placements: dict[str, Placement], sizes: Mapping[str, Sizes], host_available: int, keep: Keep
) -> dict[str, Placement]:
    """Host copies for what is swept again and again, and with keep="host" for everything, while host memory lasts.

    A fifth of it is left to the page cache and to others.
    """
    left = int(host_available * 0.8)
    homes = dict(placements)
    order = sorted(placements, key=lambda name: (name not in ("transformer", "distilled"), sizes[name].total))
    for name in order:
        swept = bool(sizes[name].streamed(placements[name]))
        if (keep == "host" or swept) and sizes[name].total <= left:
            left -= sizes[name].total
            homes[name] = replace(placements[name], home="host")
    return homes


def _networks_of(needs: Sequence[PhaseNeed], name: str) -> tuple[str, ...]:
    return next((need.networks for need in needs if need.name == name), ())
