"""One process's share in the guided passes of a stage: it computes its own passes and receives all others'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.sampler import Velocities
from ltx_a2v.errors import A2VError
from ltx_a2v.model.in_use import Alone, Share
from ltx_a2v.parallel.exchange import Exchange, Standing
from ltx_a2v.parallel.split import Passes, split_passes


class Stopped(Exception):
    """All processes leave the stage, because of another one."""


class PassSharing:
    """Who computes which passes (`model.in_use.Sharing`), in one of `count` processes.

    `announce` is called at the begin of a stage with what the other processes need to run the same steps, and `lost`
    with the error that broke the connection; `failure` makes the error to raise where another process failed.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        announce: Callable[[Any], None],
        failure: Callable[[], BaseException],
        lost: Callable[[BaseException], None],
    ) -> None:
        self.rank = rank
        self.count = count
        self.exchange: Exchange | _MetaExchange | None = None
        self.announce = announce
        self.failure = failure
        self.lost = lost

    def on_meta(self) -> PassSharing:
        """The same share for the planner, without the others."""
        planned = PassSharing(self.rank, self.count, _nothing, Stopped, _nothing)
        planned.exchange = _MetaExchange(self.count)
        return planned

    @contextmanager
    def stage(
        self, passes: Passes, perturbed_blocks: frozenset[int], num_blocks: int, sweeps: int, work: Any
    ) -> Iterator[Share]:
        if len(passes) < self.count:
            yield Alone(passes)
            return
        assert self.exchange is not None, "the helpers of this job have begun"
        self.announce(work)
        share = _Share(self, self.exchange, split_passes(passes, perturbed_blocks, num_blocks, self.count), sweeps)
        try:
            yield share
        except BaseException as error:
            share.leave(error)
            raise


class _MetaExchange:
    """Makes the tensors that an exchange makes."""

    def __init__(self, count: int) -> None:
        self._count = count

    def standings(self, own: Standing) -> list[Standing]:
        return [own] * self._count

    def gather(self, own: Tensor) -> list[Tensor]:
        return [torch.empty_like(own) for _ in range(self._count)]

    def close(self) -> None:
        pass


class _Share:
    """The share of one process in one stage of `sweeps` exchanges."""

    def __init__(
        self, sharing: PassSharing, exchange: Exchange | _MetaExchange, sets: tuple[Passes, ...], sweeps: int
    ) -> None:
        self.own = sets[sharing.rank]
        self._sharing = sharing
        self._exchange = exchange
        self._sets = sets
        self._left = sweeps
        self._exchanging = False

    def gathered(self, velocities: Velocities) -> Velocities:
        def of_all(latent: Tensor, sigma: Tensor) -> dict[Pass, Tensor]:
            return self._gather(velocities(latent, sigma))

        return of_all

    def leave(self, error: BaseException) -> None:
        """Tell the others, who are at the next exchange or will come to it; without one nobody waits."""
        if self._exchanging:
            self._sharing.lost(error)
        elif self._left:
            self._left = 0
            with suppress(RuntimeError, A2VError):  # why this process leaves is known already
                self._exchange.standings(self._standing_of(error))

    def _gather(self, own: dict[Pass, Tensor]) -> dict[Pass, Tensor]:
        self._exchanging = True
        try:
            standings = self._exchange.standings(Standing.READY)
            if not any(standings):
                return self._gather_ready(own)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the connection broke
            raise self._sharing.failure() from error
        self._exchanging, self._left = False, 0
        if Standing.OUT_OF_MEMORY in standings:
            raise torch.OutOfMemoryError("Another process of this video ran out of memory.")
        raise self._sharing.failure()

    def _gather_ready(self, own: dict[Pass, Tensor]) -> dict[Pass, Tensor]:
        size = max(len(part) for part in self._sets)
        mine = [own[kind] for kind in sorted(own)]
        padded = torch.cat(mine + mine[:1] * (size - len(mine)))  # [size, tokens, channels]
        each = self._exchange.gather(padded)
        self._exchanging = False
        self._left -= 1
        return {
            kind: rows[i : i + 1]
            for part, rows in zip(self._sets, each, strict=True)
            for i, kind in enumerate(sorted(part))
        }

    def _standing_of(self, error: BaseException) -> Standing:
        if isinstance(error, torch.OutOfMemoryError):
            return Standing.OUT_OF_MEMORY
        return Standing.FAILED if self._sharing.rank else Standing.STOPPED


def _nothing(*_: Any) -> None:
    pass
