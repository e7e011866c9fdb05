"""One network: where its weights are between uses, and which of them are on the device while it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from ltx_a2v.checkpoint.reader import read_through
from ltx_a2v.residency.ahead import Reading
from ltx_a2v.residency.host_copies import HostCopies
from ltx_a2v.residency.ledger import on_host
from ltx_a2v.residency.loader import Source, TensorLoader
from ltx_a2v.residency.piece import Piece
from ltx_a2v.residency.shared_memory import SharedMemory
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
        self.shared: SharedMemory | None = None
        """Memory for copies that other processes use too; set before the first use."""
        self._device = device
        self._built: tuple[nn.Module, Piece, list[Piece]] | None = None
        self._host: HostCopies | None = None
        self._reading_ahead = threading.Lock()
        self._wanted = False
        """By a phase: reading ahead must stop."""
        self._read_once = False
        self._kept: tuple[Placement, BlockStream] | None = None

    @property
    def on_device(self) -> bool:
        return self._kept is not None

    @property
    def host_bytes(self) -> int:
        """Of copies; where they are shared, those that other processes made too."""
        own = self._host.nbytes if self._host else 0
        return own if self.shared is None else max(own, self.shared.nbytes)

    @contextmanager
    def use(self, placement: Placement) -> Iterator[BlockStream]:
        """Load the resident pieces to the device, and free them at the end unless the home is "device"."""
        self._wanted = True
        with self._reading_ahead:  # the piece at hand is completed
            stream = self._take(placement) or self._load(placement)
        try:
            yield stream
        except BaseException:
            stream.close()
            self.drop_prepared()
            raise
        if placement.home == "device":
            self._kept = placement, stream
        else:
            stream.close()
            self._return_cache()

    def ahead(self, placement: Placement, page_cache: bool) -> Reading | None:
        """What a thread can do for the next use with this placement, or None where that is nothing.

        Memory for copies is allocated, and copies are filled where the file holds what they hold: converting is the
        device's work. Other files are read into the page cache, once, if `page_cache`.
        """
        copied = self._copied(placement) if placement.home == "host" else []
        missing = [piece for piece in copied if self._host is None or not self._host.has(piece)]
        fill = self.loader.conversion.already_stored
        from_file = bool(missing and not fill) if copied else True
        through = from_file and page_cache and not self._read_once
        if self._kept is not None or not (missing or through):
            return None
        self._wanted, self._read_once = False, self._read_once or through
        return partial(self._read_ahead, missing, fill, through)

    def _read_ahead(self, missing: list[Piece], fill: bool, through: bool, stopped: Callable[[], bool]) -> int:
        read = 0
        with self._reading_ahead:
            if missing and not self._wanted:
                self._host_copies().copying(missing)
            for piece in missing if fill else ():
                if self._wanted or stopped() or self._host is None:
                    return read
                self._host.fill(piece)
                read += piece.nbytes
        entries = self.loader.blueprint.loaded_entries.values() if through else ()
        return read + read_through(entries, lambda: self._wanted or stopped())

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

    def drop_prepared(self) -> None:
        """Free host memory that was allocated for copies and not filled."""
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

    def _host_copies(self) -> HostCopies:
        if self._host is None:
            if self.shared is not None:
                _, rest, blocks = self._on_meta()
                if not self.shared.lay_out([rest, *blocks]):
                    self.shared = None  # other processes keep another format there
            self._host = HostCopies(self.loader, self._device, self.shared)
        return self._host

    def _copied(self, placement: Placement) -> list[Piece]:
        """The pieces that are copied to host memory, in the order in which they are first fetched."""
        _, rest, blocks = self._on_meta()
        resident = _resident(placement, blocks)
        streamed = [block for i, block in enumerate(blocks) if i not in resident]
        return [rest, *(blocks[i] for i in sorted(resident)), *streamed] if placement.whole_copy else streamed

    def _load(self, placement: Placement) -> BlockStream:
        module, rest, blocks = self._on_meta()
        resident = _resident(placement, blocks)
        at_first = [rest, *(blocks[i] for i in sorted(resident))]
        source: Source = self.loader
        if placement.home == "host":
            source = self._host_copies().copying(self._copied(placement))
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
            self.drop_prepared()
            raise


def _resident(placement: Placement, blocks: Sequence[Piece]) -> frozenset[int]:
    count = len(blocks)
    return spread(count, count if placement.resident_blocks is None else min(placement.resident_blocks, count))
