"""What is alive: every tensor that an operation makes, counted from its making to its end.

On a CPU the ledger stands in for a GPU's allocator: it keeps the peak and, given a limit, refuses to pass it. On `meta`
it measures what a computation would take without computing it, which is how plans are made.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

from ltx_a2v.errors import OutOfMemory

Item = TypeVar("Item")


@contextmanager
def on_host() -> Iterator[None]:
    """What is made meanwhile would be in host memory: no ledger counts it."""
    with _disable_current_modes():
        yield


def made_on_host(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made on the host."""
    while True:
        with on_host():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
        del item


class Ledger(TorchDispatchMode):
    """A context in which new storages are counted; views and in-place results are not new."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.live = 0
        self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return out

    def during(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items, counting while they are made and not while the caller has them."""
        while True:
            with self:
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def reset_peak(self) -> None:
        self.peak = self.live

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        size = storage.nbytes()
        self._known[key] = size
        self.live += size
        weakref.finalize(storage, self._forget, key)
        self.peak = max(self.peak, self.live)
        if self.limit is not None and self.live > self.limit:
            raise OutOfMemory(f"{self.live:,} bytes are in use where {self.limit:,} were allowed.")

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)
