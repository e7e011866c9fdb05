"""How workers share one queue: who takes the next job.

The record store gives each job to one worker only. This decides who asks it first: a free worker with the model loaded,
then one that stands by, then one that would have to start, each in the order of `--devices`. A worker that cannot open
the model, or dies at its start, takes nothing while another one is well: it would fail one job after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Sharer(Protocol):
    """What the others of a server need to know of a worker's consumer."""

    @property
    def is_free(self) -> bool:
        """It would take a job now, or when its worker has started."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def is_loaded(self) -> bool: ...
    @property
    def is_sick(self) -> bool: ...
    def wake(self) -> None: ...


SharerT = TypeVar("SharerT", bound=Sharer)


def others_well(own: Sharer, everyone: Sequence[Sharer]) -> bool:
    """Whether another one could run jobs, now or when it has started."""
    return any(other is not own and not other.is_sick for other in everyone)


def going_first(own: SharerT, everyone: Sequence[SharerT]) -> list[SharerT]:
    """The free ones that take a job before `own` does."""
    place = {id(sharer): (not sharer.is_loaded, not sharer.is_ready, index) for index, sharer in enumerate(everyone)}
    return [other for other in everyone if other.is_free and place[id(other)] < place[id(own)]]
