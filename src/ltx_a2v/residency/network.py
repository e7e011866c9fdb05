"""One network: where its weights are between uses, and which of them are on the device while it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ltx_a2v.residency.host_copies import HostCopies
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.loader import Source, TensorLoader
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.stream import DEFAULT_SLOTS, BlockStream, spread

Home = Literal["device", "host", "file"]


@dataclass(frozen=True)
class Placement:
    """Where the weights of one network are.

    `home`: where they stay between uses. `resident_blocks`: how many blocks are on the device throughout a use, None
    for all; the others are streamed through `slots` buffers. `whole_copy`: with the home "host", True copies all
    pieces to host memory, so that the file is read once; False copies only the streamed blocks.
    """

    home: Home = "file"
    resident_blocks: int | None = None
    slots: int = DEFAULT_SLOTS
    whole_copy: bool = True


class Network:
    """The weights of one network: loaded for each use, and kept between uses where the placement's home says."""

    def __init__(self, loader: TensorLoader, device: torch.device) -> None:
        self.loader = loader
        self._device = device
        self._built: tuple[nn.Module, Piece, list[Piece]] | None = None
        self._host: HostCopies | None = None
        self._kept: tuple[Placement, BlockStream] | None = None

    @property
    def on_device(self) -> bool:
        return self._kept is not None

    @property
    def host_bytes(self) -> int:
        return self._host.nbytes if self._host else 0

    @contextmanager
    def use(self, placement: Placement) -> Iterator[BlockStream]:
        """Load the resident pieces to the device, and free them at the end unless the home is "device"."""
        stream = self._take(placement) or self._load(placement)
        try:
            yield stream
        except BaseException:
            stream.close()
            self._drop_prepared()
            raise
        if placement.home == "device":
            self._kept = placement, stream
        else:
            stream.close()
            self._return_cache()

    def preload(self, placement: Placement) -> None:
        """Load the weights to the home of the placement."""
        with self.use(placement) as stream:
            stream.begin(sweeps=1)
            for _ in stream.sweep():
                pass

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Give the device's memory back, and with "nothing" the host's as well."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None
        if to == "nothing" and self._host is not None:
            self._host.release()
            self._host = None

    def _drop_prepared(self) -> None:
        if self._host is not None:
            self._host.drop_prepared()

    def _return_cache(self) -> None:
        """Memory that the allocator caches is not free for other processes."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _take(self, placement: Placement) -> BlockStream | None:
        """The stream that was kept on the device, if it has this placement; any other is closed."""
        if self._kept is None:
            return None
        kept, stream = self._kept
        self._kept = None
        if kept == placement:
            return stream
        stream.close()
        return None

    def _on_meta(self) -> tuple[nn.Module, Piece, list[Piece]]:
        """The module and its pieces, which take nothing while they are bound to no memory; built once."""
        if self._built is None:
            with on_host():
                module = self.loader.build()
                self._built = module, *self.loader.blueprint.split(module)
        return self._built

    def _load(self, placement: Placement) -> BlockStream:
        module, rest, blocks = self._on_meta()
        wanted = len(blocks) if placement.resident_blocks is None else min(placement.resident_blocks, len(blocks))
        resident = spread(len(blocks), wanted)
        at_first = [rest, *(blocks[i] for i in sorted(resident))]
        streamed = [block for i, block in enumerate(blocks) if i not in resident]
        source: Source = self.loader
        if placement.home == "host":
            self._host = self._host or HostCopies(self.loader, self._device)
            source = self._host.copying([*at_first, *streamed] if placement.whole_copy else streamed)
        try:
            for piece in at_first:
                flat = torch.empty(piece.nbytes, dtype=torch.uint8, device=self._device)
                source.fetch(piece, flat)
                piece.bind(flat)
                del flat
            return BlockStream(module, rest, blocks, source, resident, self._device, placement.slots)
        except BaseException:
            for piece in at_first:
                piece.unbind()
            self._drop_prepared()
            raise
