"""Counts the bytes of live tensors, from the operation that makes each to its release.

On a CPU the ledger takes the place of a GPU's allocator: it records the peak and enforces a limit, if there is one. On
`meta` it measures the memory of a computation without running it; plans are made from this.
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
    """Tensors made within this context would be in host memory, so no ledger counts them."""
    with _disable_current_modes():
        yield


def made_on_host(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made within `on_host`."""
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
        """The same items; the ledger counts while an item is made, not while the caller works."""
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
