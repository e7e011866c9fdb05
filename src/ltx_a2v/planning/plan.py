"""Chooses which weights are on the device in which phase, and computes the peaks that follow.

A phase needs memory for the weights of its networks and for its activations. Where both exceed the budget, as few
blocks as necessary are streamed instead of resident. Where streaming all of them is still too much, the plan is refused
and the error names the smallest budget that works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ltx_a2v.errors import SMALLER_REQUEST, BudgetTooSmall
from ltx_a2v.hardware.budget import at_least, gib
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.sizes import Sizes
from ltx_a2v.residency.stream import DEFAULT_SLOTS

Keep = Literal["device", "host", "nothing"]
HOST_SHARE = 0.8
"""Share of the host's available memory that copies of weights may take."""
OF_ANY_SIZE = ("text_encoder", "connectors")
"""Phases whose memory does not depend on the size of the video."""
DENOISING = ("transformer", "distilled")
"""Networks that are swept at every step, the largest first."""
NO_ROOM_FOR_GRAPHS = "The budget leaves no room for CUDA graphs; steps may take longer."


@dataclass(frozen=True)
class GraphsNeed:
    """What CUDA graphs need during a phase, in bytes."""

    more: int = 0
    """Beyond the peak without them."""
    kept: int = 0
    """Their buffers and their pool, which stay after the phase where weights stay on the device."""


@dataclass(frozen=True)
class PhaseNeed:
    """One phase's needs: the `networks` that are on the device together, and the peak of its activations in bytes,
    without CUDA graphs."""

    name: str
    networks: tuple[str, ...]
    activations: int
    graphs: GraphsNeed = GraphsNeed()

    def working(self, sizes: Mapping[str, Sizes], placements: Mapping[str, Placement]) -> int:
        """Bytes besides weights. Streamed blocks are loaded while others compute, at least in the first sweep."""
        loading = sum(sizes[name].reading for name in self.networks if sizes[name].streamed(placements[name]))
        return max(self.activations + loading, *(sizes[name].reading for name in self.networks))


def _with_graphs(needs: Sequence[PhaseNeed], kept: bool = False) -> list[PhaseNeed]:
    """The needs with CUDA graphs, also in other phases where they are `kept`."""
    all_kept = sum(need.graphs.kept for need in needs) * kept
    return [
        replace(need, activations=need.activations + need.graphs.more + all_kept - need.graphs.kept * kept)
        for need in needs
    ]


@dataclass(frozen=True)
class PhasePlan:
    """Predicted device memory of one phase in bytes: weights, and activations with the memory for loading."""

    name: str
    weights: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.activations


@dataclass(frozen=True, repr=False)
class Plan:
    """Where each network keeps its weights, and the peaks of device memory that follow; all sizes in bytes."""

    budget: int | None
    placements: Mapping[str, Placement]
    phases: tuple[PhasePlan, ...]
    host_bytes: int
    """Weights that will be kept in host memory."""
    bus_bytes_per_step: int
    """Weights that cross the bus in each step of stage 1."""
    keep: Keep = "nothing"
    notes: tuple[str, ...] = field(default=())
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Networks on the device, by phase."""
    smallest: int = 0
    """The smallest budget that works."""
    graphs: bool = False
    """Whether CUDA graphs of the transformer's blocks are used."""

    @property
    def peak(self) -> int:
        return max((phase.peak for phase in self.phases), default=0)

    def __repr__(self) -> str:
        budget = "unlimited" if self.budget is None else gib(self.budget)
        resident = self.placements["transformer"].resident_blocks if "transformer" in self.placements else None
        blocks = "all blocks" if resident is None else f"{resident} blocks"
        return f"Plan(budget {budget}, peak {gib(self.peak)}, {blocks} of the transformer resident)"


def make_plan(
    sizes: Mapping[str, Sizes],
    needs: Sequence[PhaseNeed],
    budget: int | None,
    host_available: int,
    keep: Keep = "nothing",
    host_limit: int | None = None,
) -> Plan:
    """Plan within `budget` bytes of device memory. Raises `BudgetTooSmall`, naming the smallest budget that works.

    Copies of weights take at most `HOST_SHARE` of the `host_available` bytes, and at most `host_limit`.

    `keep` is where weights may stay between requests: "device" falls back to "host" where not all weights fit at once,
    and "host" to "nothing" where host memory is short. CUDA graphs are left out where the budget holds without them
    only: what works does not depend on them, nor where weights stay.
    """
    captured = any(need.graphs.kept for need in needs)
    if keep == "device":
        for graphs in (True, False) if captured else (False,):
            plan = _all_on_device(sizes, _with_graphs(needs, kept=True) if graphs else needs, budget)
            if budget is None or plan.peak <= budget:
                return replace(
                    plan, graphs=graphs, smallest=smallest_budget(sizes, needs), notes=_notes(captured, graphs)
                )
        keep = "host"
    with_graphs = _with_graphs(needs)
    graphs = captured and (budget is None or smallest_budget(sizes, with_graphs) <= budget)
    plan = _streamed(sizes, with_graphs if graphs else needs, budget, host_available, keep, host_limit)
    notes = (*plan.notes, *_notes(captured, graphs))
    return replace(plan, graphs=graphs, smallest=smallest_budget(sizes, needs), notes=notes)


def _notes(captured: bool, graphs: bool) -> tuple[str, ...]:
    return (NO_ROOM_FOR_GRAPHS,) if captured and not graphs else ()


def _all_on_device(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed], budget: int | None) -> Plan:
    everything = sum(size.total for size in sizes.values())
    placements = {name: Placement("device") for name in sizes}
    phases = tuple(PhasePlan(need.name, everything, need.working(sizes, placements)) for need in needs)
    return Plan(budget, placements, phases, 0, 0, "device", networks=_networks(needs))


def _streamed(
    sizes: Mapping[str, Sizes],
    needs: Sequence[PhaseNeed],
    budget: int | None,
    host_available: int,
    keep: Keep,
    host_limit: int | None,
) -> Plan:
    """Networks on the device in their phases only, streamed as far as the budget asks for it."""
    networks = _networks(needs)
    placements = _fit(sizes, needs, budget)
    placements, notes = _choose_homes(placements, sizes, host_available, host_limit, keep)
    phases = tuple(
        PhasePlan(
            need.name,
            sum(sizes[name].on_device(placements[name]) for name in need.networks),
            need.working(sizes, placements),
        )
        for need in needs
    )
    host = sum(sizes[name].in_host(placement) for name, placement in placements.items())
    bus = sum(sizes[name].streamed(placements[name]) for name in networks.get("stage_1", ()))
    kept: Keep = "host" if keep == "host" and host else "nothing"
    return Plan(budget, placements, phases, host, bus, kept, notes, networks)


def _networks(needs: Sequence[PhaseNeed]) -> dict[str, tuple[str, ...]]:
    return {need.name: need.networks for need in needs}


def smallest_budget(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed]) -> int:
    leanest = {name: _leanest(size) for name, size in sizes.items()}
    return max(_peak(sizes, leanest, need) for need in needs)


def _fit(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed], budget: int | None) -> dict[str, Placement]:
    """The most resident blocks of each network that fit in every phase that uses it.

    Where a phase uses several networks, the last named is reduced first: LoRA factors before the transformer, whose
    bytes every step needs.
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
            raise _too_small(sizes, needs, budget)
    return placements


def _too_small(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed], budget: int) -> BudgetTooSmall:
    """Names the smallest budget that works, and the phase that needs it."""
    leanest = {name: _leanest(size) for name, size in sizes.items()}
    largest = max(needs, key=lambda need: _peak(sizes, leanest, need))
    of_any_size = largest.name in OF_ANY_SIZE
    return BudgetTooSmall(
        f"A VRAM budget of {gib(budget)} cannot hold this: {largest.name} needs "
        f"{at_least(_peak(sizes, leanest, largest))} with all blocks streamed{', at any size' * of_any_size}; "
        f"the smallest budget that works is {at_least(smallest_budget(sizes, needs))}"
        f"{'' if of_any_size else f', or {SMALLER_REQUEST}'}."
    )


def _reduce(
    sizes: Mapping[str, Sizes], placements: dict[str, Placement], need: PhaseNeed, name: str, budget: int
) -> Placement:
    """The most resident blocks with which the phase fits, or the placement that takes least."""
    count = len(sizes[name].blocks)
    current = placements[name].resident_blocks
    for resident in range(count if current is None else current, -1, -1):
        candidate = _with_blocks(sizes[name], resident)
        if _peak(sizes, {**placements, name: candidate}, need) <= budget:
            return candidate
    return _leanest(sizes[name])


def _leanest(size: Sizes) -> Placement:
    """All blocks streamed; all resident where the slots would take more (few blocks, or very unequal ones)."""
    streamed, resident = _with_blocks(size, 0), Placement(resident_blocks=None)
    return min(streamed, resident, key=size.upper_bound)


def _with_blocks(size: Sizes, resident: int) -> Placement:
    """With that many blocks resident; None stands for all of them."""
    return Placement(resident_blocks=None if len(size.blocks) - resident <= 0 else resident, slots=DEFAULT_SLOTS)


def _peak(sizes: Mapping[str, Sizes], placements: Mapping[str, Placement], need: PhaseNeed) -> int:
    return need.working(sizes, placements) + sum(sizes[name].upper_bound(placements[name]) for name in need.networks)


def _choose_homes(
    placements: dict[str, Placement],
    sizes: Mapping[str, Sizes],
    host_available: int,
    host_limit: int | None,
    keep: Keep,
) -> tuple[dict[str, Placement], tuple[str, ...]]:
    """Host copies of the networks swept at every step, and with keep="host" of all networks, while host memory lasts.

    A fifth of it is left to the page cache and to other processes. A note says which copies had no room. The text
    encoder is swept only once or twice, so a copy does not pay: at 8 GiB on an H100 making it took 11 s of 17.
    """
    left = int(host_available * HOST_SHARE)
    if host_limit is not None:
        left = min(left, host_limit)
    homes = dict(placements)
    others = sorted(placements.keys() - set(DENOISING), key=lambda name: sizes[name].total) if keep == "host" else ()
    for name in [*(name for name in DENOISING if name in placements), *others]:
        for whole in (True, False) if keep == "host" else (False,):
            copied = replace(placements[name], home="host", whole_copy=whole)
            size = sizes[name].in_host(copied)
            if 0 < size <= left:
                left -= size
                homes[name] = copied
                break
    swept = [name for name in DENOISING if name in placements and sizes[name].streamed(placements[name])]
    if all(homes[name].home == "host" for name in swept):
        return homes, ()
    wanted = sum(sizes[name].streamed(placements[name]) for name in swept)
    return homes, (_short_of_host(wanted, host_available) if host_limit is None else _beyond_limit(wanted, host_limit),)


def _beyond_limit(wanted: int, limit: int) -> str:
    return (
        f"Blocks come from the file at every step: their copy in host memory would take {gib(wanted)}, and "
        f"the limit set for host memory allows {gib(limit)}."
    )


def _short_of_host(wanted: int, available: int) -> str:
    return (
        f"Host memory is short: blocks come from the file at every step, since their copy would take {gib(wanted)} of "
        f"at least {gib(int(wanted / HOST_SHARE))} that should be available, and {gib(available)} are."
    )
