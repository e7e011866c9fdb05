"""One network as its files describe it: its module, which tensors of which file belong to it, and its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.checkpoint.keys import AS_IN_FILE, KeyMap
from ltx_a2v.residency.piece import Piece


@dataclass(frozen=True)
class Blueprint:
    """`make` gives the module on `meta`, unquantized.

    `block_lists` name the module lists whose elements are streamed as blocks, in execution order. Tensors whose names
    begin with one of `left_out` are never loaded. `key_map` translates names for errors.
    """

    name: str
    make: Callable[[], nn.Module]
    entries: Entries
    key_map: KeyMap = AS_IN_FILE
    block_lists: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def loaded_entries(self) -> Entries:
        """The entries that are loaded: all except those of `left_out`."""
        return {name: self.entries[name] for name in self._loaded(self.entries)}

    def split(self, module: nn.Module) -> tuple[Piece, list[Piece]]:
        """The piece outside the blocks, and one piece per block in order. `module` is from `make`, maybe quantized."""
        blocks = [
            f"{block_list}.{name}"
            for block_list in self.block_lists
            for name, _ in module.get_submodule(block_list).named_children()
        ]
        names = self._by_block(module.state_dict(), frozenset(blocks))
        sources = self._by_block(self.entries, frozenset(blocks))

        def piece(block: str) -> Piece:
            return Piece(block, module, names.get(block, ()), sources.get(block, ()))

        return piece(""), [piece(block) for block in blocks]

    def _by_block(self, names: Iterable[str], blocks: frozenset[str]) -> dict[str, list[str]]:
        """Names grouped by block; those outside the blocks under an empty name."""
        found: dict[str, list[str]] = {}
        for name in self._loaded(names):
            found.setdefault(next((p for p in _parents(name) if p in blocks), ""), []).append(name)
        return found

    def _loaded(self, names: Iterable[str]) -> Iterator[str]:
        return (name for name in names if not (self.left_out and name.startswith(self.left_out)))


def _parents(name: str) -> Iterator[str]:
    """`a.b.c` -> `a`, `a.b`"""
    return (name[:i] for i, letter in enumerate(name) if letter == ".")
