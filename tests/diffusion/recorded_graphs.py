"""A stand-in for CUDA graphs on a CPU: records operations with the tensors that they used, and repeats them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

from ltx_a2v.diffusion.graphs import BlockGraphs


class RecordingCapturer:
    """Like a GPU's, it repeats kernels at the same addresses, whatever the modules and hooks are by then, and capturing
    leaves all tensors as they were."""

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.fails_at = fails_at
        self.error = error or RuntimeError("operation not permitted when stream is capturing\nand more")
        self.tried = 0
        self.replays = 0
        self.prepared = 0
        self.released = 0
        self.nbytes = 0
        self.closed: set[int] = set()
        self._generation = 0

    def prepare(self) -> None:
        self.prepared += 1

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.tried += 1
        recorded = _Recording()
        try:
            with recorded:
                work()
            if self.tried == self.fails_at:
                raise self.error
        finally:
            recorded.undo()
        generation = self._generation

        def replay() -> None:
            assert generation == self._generation, "the graph was released"
            self.replays += 1
            recorded.repeat()

        return replay

    def release(self) -> None:
        self.released += 1
        self._generation += 1


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_address(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        if func._schema.is_mutable:
            self._remember(func._schema, args, kwargs)
        out = func(*args, **kwargs)
        made = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor) and _address(t) not in given]
        self._made |= {_address(t) for t in made}
        if made or func._schema.is_mutable:  # views are there already
            self._operations.append((func, args, kwargs, made))
        return out

    def _remember(self, schema: Any, args: Any, kwargs: Any) -> None:
        for place, argument in enumerate(schema.arguments):
            tensor = args[place] if place < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(tensor, Tensor) and _address(tensor) not in self._made:
                self._before.setdefault(id(tensor), (tensor, tensor.clone()))

    def undo(self) -> None:
        for tensor, before in reversed(self._before.values()):
            tensor.copy_(before)

    def repeat(self) -> None:
        for func, args, kwargs, made in self._operations:
            out = func(*args, **kwargs)
            given = {_address(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
            again = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor) and _address(t) not in given]
            for tensor, value in zip(made, again, strict=True):
                tensor.copy_(value)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.fixture
def capturer(monkeypatch: pytest.MonkeyPatch) -> RecordingCapturer:
    """Models opened from now on have graphs, on a CPU too."""
    made = RecordingCapturer()
    monkeypatch.setattr("ltx_a2v.model.model.graphs_for", lambda _: BlockGraphs(made))
    return made
