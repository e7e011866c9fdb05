"""One network: where its weights are between uses, and which of them are on the device while it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ltx_a2v.model.recipe import Recipe, split
from ltx_a2v.residency.layout import Part
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.sources import FileSource, HostSource, Source
from ltx_a2v.residency.stream import DEFAULT_SLOTS, BlockStream, Slot, spread

Home = Literal["device", "host", "file"]


@dataclass(frozen=True)
class Placement:
    """`home`: where the weights stay between uses. `resident_blocks`: how many blocks are on the device throughout a
    use, None for all; the others pass through `slots` buffers. `whole_copy`: with the home "host", whether host memory
    holds everything, so that nothing is read from the file again, or only the blocks that are streamed."""

    home: Home = "file"
    resident_blocks: int | None = None
    slots: int = DEFAULT_SLOTS
    whole_copy: bool = True


class Loaded:
    """A network that can compute."""

    def __init__(self, module: nn.Module, resident: list[tuple[Part, Slot]], stream: BlockStream) -> None:
        self.module: Any = module
        self.stream = stream
        self._resident = resident

    def begin(self, sweeps: int) -> None:
        self.stream.begin(sweeps)

    @contextmanager
    def hooked(self, sweeps: int) -> Iterator[Any]:
        """The module, whose own forward calls its blocks, `sweeps` times."""
        self.begin(sweeps)
        hooks = self.stream.hook()
        try:
            yield self.module
        finally:
            for hook in hooks:
                hook.remove()

    def close(self) -> None:
        self.stream.close()
        for part, _ in self._resident:
            part.unbind()
        self._resident.clear()


def sweep_together(first: Loaded, *others: Loaded) -> Iterator[nn.Module]:
    """The blocks of the first network, each while the same block of the others is on the device too."""
    for block, *_ in zip(first.stream.sweep(), *(other.stream.sweep() for other in others), strict=True):
        yield block


class Network:
    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self._device = device
        self._host: HostSource | None = None
        self._kept: tuple[Placement, Loaded] | None = None

    @property
    def on_device(self) -> bool:
        return self._kept is not None

    @property
    def host_bytes(self) -> int:
        return self._host.nbytes if self._host else 0

    @contextmanager
    def use(self, placement: Placement) -> Iterator[Loaded]:
        """Load what the placement wants on the device; give it back at the end unless that is its home."""
        loaded = self._take(placement) or self._load(placement)
        try:
            yield loaded
        except BaseException:
            loaded.close()
            self._forget_coming()
            raise
        if placement.home == "device":
            self._kept = placement, loaded
        else:
            loaded.close()
            self._return_cache()

    def preload(self, placement: Placement) -> None:
        """Bring the weights to where the placement keeps them between uses."""
        with self.use(placement) as loaded:
            loaded.begin(sweeps=1)
            for _ in loaded.stream.sweep():
                pass

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Give the device's memory back, and with "nothing" the host's as well."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None
        if to == "nothing" and self._host is not None:
            self._host.release()
            self._host = None

    def _forget_coming(self) -> None:
        if self._host is not None:
            self._host.forget_coming()

    def _return_cache(self) -> None:
        """What the allocator keeps for the next phase is what others lack."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _take(self, placement: Placement) -> Loaded | None:
        """What is on the device already, where it is as wanted."""
        if self._kept is None:
            return None
        kept, loaded = self._kept
        self._kept = None
        if kept == placement:
            return loaded
        loaded.close()
        return None

    def _load(self, placement: Placement) -> Loaded:
        with on_host():  # on `meta`, which takes nothing
            module = self.recipe.build()
            rest, block_parts, blocks = split(self.recipe, module)
        parts = [*block_parts, rest]
        files = FileSource(self.recipe, parts)
        wanted = len(blocks) if placement.resident_blocks is None else min(placement.resident_blocks, len(blocks))
        resident = spread(len(blocks), wanted)
        at_first = (len(blocks), *sorted(resident))
        source: Source = files
        if placement.home == "host":
            self._host = self._host or HostSource(files, self._device)
            streamed = [index for index in range(len(blocks)) if index not in resident]
            source = self._host.copying([*at_first, *streamed] if placement.whole_copy else streamed)
        held: list[tuple[Part, Slot]] = []
        try:
            for index in at_first:
                part = parts[index].part
                slot = Slot(part.layout.nbytes, self._device)
                held.append((part, slot))
                source.fetch(index, slot.flat)
                slot.bind(part)
            stream = BlockStream(blocks, [p.part for p in block_parts], source, resident, self._device, placement.slots)
        except BaseException:
            for part, _ in held:
                part.unbind()
            self._forget_coming()
            raise
        return Loaded(module, held, stream)
