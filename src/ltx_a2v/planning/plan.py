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
from ltx_a2v.hardware.budget import at_least, gib
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import DEFAULT_SLOTS, spread

Keep = Literal["device", "host", "nothing"]
HOST_SHARE = 0.8
"""Of the host's available memory, what copies of weights may take."""
OF_ANY_SIZE = ("text_encoder", "connectors")
"""Phases that take the same for every video."""
DENOISING = ("transformer", "distilled")
"""Swept at every step; the transformer's are the most."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of one network as stored: all that is in no block, and each block. `reading` is what the next of them takes
    on the device beside its place while it is read and converted."""

    rest: int
    blocks: tuple[int, ...] = ()
    reading: int = 0

    @property
    def total(self) -> int:
        return self.rest + sum(self.blocks)

    def on_device(self, placement: Placement) -> int:
        """While it is used."""
        resident, streamed = self._divided(placement)
        slots = min(placement.slots, len(streamed)) * max(streamed, default=0)
        return self.rest + sum(resident) + slots

    def at_most(self, placement: Placement) -> int:
        """The same where blocks are alike, else no less, and more the more blocks are resident: what plans go by."""
        resident, streamed = (len(blocks) for blocks in self._divided(placement))
        slots = min(placement.slots, streamed) * max(self.blocks, default=0)
        return self.rest + sum(sorted(self.blocks)[streamed:] if resident else ()) + slots

    def streamed(self, placement: Placement) -> int:
        """Bytes over the bus per sweep."""
        return sum(self._divided(placement)[1])

    def _divided(self, placement: Placement) -> tuple[list[int], list[int]]:
        """Resident and streamed blocks."""
        count = len(self.blocks)
        wanted = count if placement.resident_blocks is None else min(placement.resident_blocks, count)
        resident = spread(count, wanted)
        return [self.blocks[i] for i in sorted(resident)], [b for i, b in enumerate(self.blocks) if i not in resident]

    def in_host(self, placement: Placement) -> int:
        """Of copies in host memory."""
        if placement.home != "host":
            return 0
        return self.total if placement.whole_copy else self.streamed(placement)


@dataclass(frozen=True)
class PhaseNeed:
    """`networks` are on the device together; `activations` is the peak of what computing makes, in bytes."""

    name: str
    networks: tuple[str, ...]
    activations: int

    def working(self, sizes: Mapping[str, Sizes], placements: Mapping[str, Placement]) -> int:
        """Blocks that are streamed are read while others compute, also those that only the first sweep reads."""
        beside = sum(sizes[name].reading for name in self.networks if sizes[name].streamed(placements[name]))
        return max(self.activations + beside, *(sizes[name].reading for name in self.networks))


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
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By phase, what it has on the device."""
    smallest: int = 0
    """The smallest budget that works."""

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
    host_limit: int | None = None,
) -> Plan:
    """Raises `BudgetTooSmall`, naming the smallest budget that would do.

    Of the bytes of host memory that are available, a share is taken for copies, and no more than `host_limit`.

    `keep` is where weights may stay between requests; "device" falls back to "host" where not everything fits at once,
    and "host" to "nothing" where host memory is short.
    """
    networks = {need.name: need.networks for need in needs}
    smallest = smallest_budget(sizes, needs)
    everything = sum(size.total for size in sizes.values())
    placements = {name: Placement("device") for name in sizes}
    most = max(need.working(sizes, placements) for need in needs)
    if keep == "device" and budget is not None and everything + most > budget:
        keep = "host"
    if keep == "device":
        phases = tuple(PhasePlan(need.name, everything, need.working(sizes, placements)) for need in needs)
        return Plan(budget, placements, phases, 0, 0, keep, (), networks, smallest)
    placements = _fit(sizes, needs, budget, advice)
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
    return Plan(budget, placements, phases, host, bus, kept, notes, networks, smallest)


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
            raise _too_small(sizes, needs, budget, advice)
    return placements


def _too_small(sizes: Mapping[str, Sizes], needs: Sequence[PhaseNeed], budget: int, advice: str) -> BudgetTooSmall:
    """Says what would do, and what makes it that much."""
    leanest = {name: _leanest(size) for name, size in sizes.items()}
    largest = max(needs, key=lambda need: _peak(sizes, leanest, need))
    of_any_size = largest.name in OF_ANY_SIZE
    return BudgetTooSmall(
        f"A VRAM budget of {gib(budget)} cannot hold this: {largest.name} needs "
        f"{at_least(_peak(sizes, leanest, largest))} with all blocks streamed{', at any size' * of_any_size}; "
        f"the smallest budget that works is {at_least(smallest_budget(sizes, needs))}"
        f"{'' if of_any_size else f', or {advice}'}."
    )


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
    return min(streamed, resident, key=size.at_most)


def _with_blocks(size: Sizes, resident: int) -> Placement:
    """With that many blocks resident; None stands for all of them."""
    return Placement(resident_blocks=None if len(size.blocks) - resident <= 0 else resident, slots=DEFAULT_SLOTS)


def _peak(sizes: Mapping[str, Sizes], placements: Mapping[str, Placement], need: PhaseNeed) -> int:
    return need.working(sizes, placements) + sum(sizes[name].at_most(placements[name]) for name in need.networks)


def _choose_homes(
    placements: dict[str, Placement],
    sizes: Mapping[str, Sizes],
    host_available: int,
    host_limit: int | None,
    keep: Keep,
) -> tuple[dict[str, Placement], tuple[str, ...]]:
    """Host copies of what is swept at every step, and with keep="host" of everything, while host memory lasts.

    A fifth of it is left to the page cache and to others. What is swept and has no place there is said in a note. The
    text encoder is swept once or twice, which is no reason: at 8 GiB on an H100 making its copy took 11 s of 17.
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
        f"--host-memory allows {gib(limit)}."
    )


def _short_of_host(wanted: int, available: int) -> str:
    return (
        f"Host memory is short: blocks come from the file at every step, since their copy would take {gib(wanted)} of "
        f"at least {gib(int(wanted / HOST_SHARE))} that should be available, and {gib(available)} are."
    )
