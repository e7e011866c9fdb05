"""Files to pieces: read, convert and put in place, tensor by tensor, so that no second copy of a piece exists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.entries import Entries, check_entries
from ltx_a2v.checkpoint.reader import CPU, stream_tensors
from ltx_a2v.errors import InvalidModel
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.ledger import Ledger, made_on_host
from ltx_a2v.residency.piece import Piece
from ltx_a2v.settings.defaults import READ_CHUNK_BYTES

LARGEST_ON_DEVICE = 256 * 2**20
"""Bytes. Larger tensors (a text projection has 1.5 GB in bf16) are read and converted on the CPU, with the same bits,
so that loading needs little more device memory than the stored weights."""


class Source(Protocol):
    """What a piece is fetched from: its files, or a copy in host memory."""

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        """Fill `flat` (uint8, on the device) with the piece; asynchronous on the current stream where it can be."""


class Conversion(Protocol):
    """How the file's tensors become the module's, such as a `QuantizationPolicy`: the same on both sides."""

    @property
    def already_stored(self) -> bool:
        """Whether the file holds what `convert` would give; `convert` then changes nothing."""

    def apply(self, module: nn.Module) -> None:
        """Give the module, on `meta`, the tensors that `convert` gives."""

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]: ...


class Unchanged:
    """The module stores what the file holds."""

    already_stored = True

    def apply(self, module: nn.Module) -> None:
        pass

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return [(name, tensor)]


UNCHANGED = Unchanged()


@dataclass(frozen=True)
class TensorLoader:
    """Fills the pieces of one network from its files: a `Source`. Floats become `dtype`."""

    blueprint: Blueprint
    dtype: torch.dtype
    conversion: Conversion = UNCHANGED

    def build(self) -> nn.Module:
        """The module on `meta`, with the tensors that `fetch` fills."""
        return self._as_stored(self.blueprint.make())

    def check(self) -> nn.Module:
        """As `build`. Raises `InvalidModel` unless the file has exactly this network's tensors."""
        module = self.blueprint.make()
        in_file = {} if self.conversion.already_stored else module.state_dict()
        module = self._as_stored(module)
        blueprint = self.blueprint
        check_entries(blueprint.name, in_file or module.state_dict(), blueprint.entries, blueprint.key_map)
        return module

    def fetch(self, piece: Piece, flat: Tensor) -> None:
        """Raises `InvalidModel` for a file that cannot be read, or no longer holds the piece."""
        views = piece.views(flat)
        missing = set(views)
        for name, tensor in self.tensors(piece.sources, flat.device):
            views[name].copy_(tensor)
            missing.discard(name)
            del tensor  # before the next one is converted
        if missing:
            raise InvalidModel(f"The {self.blueprint.name} was read without {min(missing)}; is the file intact?")

    def tensors(self, sources: Sequence[str], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """What is stored for the file's tensors `sources`, one after the other, on `device` or on the CPU."""
        entries = self.blueprint.entries
        small = {name: entries[name] for name in sources if entries[name].nbytes <= LARGEST_ON_DEVICE}
        large = {name: entries[name] for name in sources if name not in small}
        for some, where in ((small, device), (large, CPU)):
            for name, tensor in _read(some, where):
                yield from self.conversion.convert(name, tensor)
                del tensor  # before the next one is read

    def reading(self, module: nn.Module) -> int:
        """Bytes of temporary device memory that loading takes, the piece itself excluded: the largest tensor of the
        file, with the temporaries of its conversion (measured on `meta`), and the rest of its chunk.

        `module` is from `build`. One of several tensors with equal shape and storage is measured.
        """
        stored_as = {name: tensor.dtype for name, tensor in module.state_dict().items()}
        most, measured = 0, set()
        for name, entry in self.blueprint.loaded_entries.items():
            alike = re.sub(r"\d+", "#", name), entry.shape, entry.dtype, stored_as.get(name)
            if entry.nbytes <= LARGEST_ON_DEVICE and alike not in measured:
                measured.add(alike)
                with Ledger() as ledger:
                    empty = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
                    list(self.conversion.convert(name, empty))
                    del empty
                most = max(most, ledger.peak)
        return most + min(READ_CHUNK_BYTES, most)

    def _as_stored(self, module: nn.Module) -> nn.Module:
        module = nn.Module.to(module, self.dtype)  # diffusers' own `to` warns of what does not concern `meta`
        self.conversion.apply(module)
        return module


def _read(entries: Entries, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Where a CPU is the device, tensors that were read still count as host memory."""
    tensors = stream_tensors(entries, device)
    return made_on_host(tensors) if device.type == "cpu" else tensors
