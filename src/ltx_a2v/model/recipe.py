"""How one network is made: its module, which tensors of which file belong to it, and how they are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.keys import AS_IN_FILE, KeyMap
from ltx_a2v.checkpoint.reader import CPU, stream_tensors
from ltx_a2v.model.files import Entries
from ltx_a2v.networks.build import check_entries
from ltx_a2v.residency.layout import Part
from ltx_a2v.residency.ledger import Ledger, made_on_host
from ltx_a2v.settings.defaults import READ_CHUNK_BYTES

Convert = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]


LARGEST_ON_DEVICE = 256 * 2**20
"""Bytes of a tensor that is read and converted on the device; larger ones (a text projection has 1.5 GB in bf16) come
by way of the CPU, to the same bits, so that loading never needs much more than what it leaves."""


def as_it_is(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    return [(name, tensor)]


@dataclass(frozen=True)
class Recipe:
    """`make` gives the module on `meta` as the file describes it; `apply` and `convert` are a quantization's two sides.

    `block_lists` name the module lists whose elements can be moved one by one, in the order in which they compute;
    `left_out` are beginnings of names that never come to the device.
    """

    name: str
    make: Callable[[], nn.Module]
    entries: Entries
    dtype: torch.dtype
    apply: Callable[[nn.Module], None] | None = None
    convert: Convert = as_it_is
    already_converted: bool = False
    """The file holds what `convert` would give."""
    block_lists: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    key_map: KeyMap = AS_IN_FILE

    def build(self) -> nn.Module:
        return self._as_stored(self.make())

    def check(self) -> nn.Module:
        """As `build`. Raises `InvalidModel` unless the file has exactly this network's tensors."""
        module = self.make()
        in_file = {} if self.already_converted else module.state_dict()
        module = self._as_stored(module)
        check_entries(self.name, in_file or module.state_dict(), self.entries, self.key_map)
        return module

    def on_device(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not name.startswith(self.left_out or ("\0",))]

    def _as_stored(self, module: nn.Module) -> nn.Module:
        module = nn.Module.to(module, self.dtype)  # diffusers' own `to` warns of what does not concern `meta`
        if self.apply is not None:
            self.apply(module)
        return module

    def reading(self, module: nn.Module) -> int:
        """Bytes that reading takes on the device beside the tensors' places: the one of all that takes most as it is in
        the file, with what converting it makes, measured on `meta`; and what of the next ones came in the same chunk.

        `module` is what `build` gives. Of tensors that are alike and stored alike one is measured.
        """
        stored_as = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        most, measured = 0, set()
        for name in self.on_device(self.entries):
            entry = self.entries[name]
            alike = re.sub(r"\d+", "#", name), entry.shape, entry.dtype, stored_as.get(name)
            if entry.nbytes <= LARGEST_ON_DEVICE and alike not in measured:
                measured.add(alike)
                with Ledger() as ledger:
                    list(self._stored_for(name, torch.empty(entry.shape, dtype=entry.dtype, device="meta")))
                most = max(most, ledger.peak)
        return most + min(READ_CHUNK_BYTES, most)

    def stored(self, names: Sequence[str], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """What is stored for the file's tensors `names`, one after the other, on `device` or on the CPU."""
        small = {name: self.entries[name] for name in names if self.entries[name].nbytes <= LARGEST_ON_DEVICE}
        large = {name: self.entries[name] for name in names if name not in small}
        for entries, where in ((small, device), (large, CPU)):
            for name, tensor in _read(entries, where):
                yield from self._stored_for(name, tensor)
                del tensor  # before the next one is read

    def _stored_for(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return (as_it_is if self.already_converted else self.convert)(name, tensor)


def _read(entries: Entries, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """On a CPU that stands in for a device, what was read is still on the host."""
    tensors = stream_tensors(entries, device)
    return made_on_host(tensors) if device.type == "cpu" else tensors


@dataclass(frozen=True)
class LoadedPart:
    """A part of a module and the file's tensors it is made of."""

    part: Part
    sources: tuple[str, ...]


def split(recipe: Recipe, module: nn.Module) -> tuple[LoadedPart, list[LoadedPart], list[nn.Module]]:
    """The rest of the network, its blocks' parts, and its blocks, both in order."""
    prefixes, blocks = [], []
    for list_name in recipe.block_lists:
        for i, block in enumerate(module.get_submodule(list_name).children()):
            prefixes.append(f"{list_name}.{i}.")
            blocks.append(block)

    def by_block(names: Iterable[str]) -> dict[str | None, list[str]]:
        """None for what is in no block."""
        found: dict[str | None, list[str]] = {}
        for name in recipe.on_device(names):
            prefix = next((p for p in _prefixes_of(name) if p in known), None)
            found.setdefault(prefix, []).append(name)
        return found

    known = frozenset(prefixes)
    stored, sources = by_block(module.state_dict()), by_block(recipe.entries)

    def part(prefix: str | None) -> LoadedPart:
        return LoadedPart(Part(module, stored.get(prefix, ())), tuple(sources.get(prefix, ())))

    return part(None), [part(prefix) for prefix in prefixes], blocks


def _prefixes_of(name: str) -> Iterator[str]:
    """`a.b.c` -> `a.`, `a.b.`"""
    return (name[: i + 1] for i, letter in enumerate(name) if letter == ".")
