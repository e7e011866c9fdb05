"""The result of a conversion: bytes, and the error of each layer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.table import Table

WORST = 10
"""How many layers are named."""


@dataclass(frozen=True)
class LayerError:
    """Quantization error of one layer."""

    network: str
    layer: str
    """By its name in the network's module."""
    lost: float
    """Squared Frobenius norm of stored weight minus weight."""
    whole: float
    """Squared Frobenius norm of the weight."""

    @property
    def relative(self) -> float:
        return _relative([self])

    @property
    def kind(self) -> str:
        """`attn1.to_q` for all blocks of a network; a connector is one kind."""
        if self.network == "connectors":
            return self.layer.split(".")[0]
        return re.sub(r"^(transformer_blocks|layers)\.\d+\.", "", self.layer)


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion: sizes in bytes before and after, and the error of each quantized layer."""

    output_path: Path
    mode: str
    keep_bf16_blocks: frozenset[int]
    bytes_before: dict[str, int]
    """Bytes by network: the transformer, the connectors and all other tensors; or the text encoder."""
    bytes_after: dict[str, int]
    layers: tuple[LayerError, ...]
    """In the order of the file; empty where errors were not requested."""

    def at(self, path: Path) -> ConversionReport:
        """The same of a file that was moved to `path`."""
        return replace(self, output_path=path)

    @property
    def relative_error(self) -> float:
        """Relative error of all covered weights together."""
        return _relative(self.layers)

    @property
    def by_kind(self) -> dict[str, tuple[int, float]]:
        """How many layers of each kind, and their error."""
        kinds: dict[str, list[LayerError]] = {}
        for layer in self.layers:
            kinds.setdefault(layer.kind, []).append(layer)
        return {kind: (len(layers), _relative(layers)) for kind, layers in kinds.items()}

    @property
    def worst(self) -> list[LayerError]:
        return sorted(self.layers, key=lambda layer: layer.relative, reverse=True)[:WORST]

    def as_json(self) -> dict[str, Any]:
        return {
            "output_path": str(self.output_path),
            "mode": self.mode,
            "keep_bf16_blocks": sorted(self.keep_bf16_blocks),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "relative_error": self.relative_error,
            "kinds": {kind: {"layers": count, "relative_error": e} for kind, (count, e) in self.by_kind.items()},
            "worst": [{"network": x.network, "layer": x.layer, "relative_error": x.relative} for x in self.worst],
        }

    def print(self, file: TextIO) -> None:
        """The bytes, and where errors were measured those."""
        console = Console(file=file)
        before, after = (sum(parts.values()) for parts in (self.bytes_before, self.bytes_after))
        console.print(
            f"{self.output_path}: {self.mode}, {_gib(before)} -> {_gib(after)} GiB", highlight=False, soft_wrap=True
        )
        if self.layers:
            console.print(Group("", self._sizes(), "", self._kinds(), "", self._worst()))

    def _sizes(self) -> Table:
        table = _table("tensors", "GiB before", "GiB after")
        for part, before in self.bytes_before.items():
            table.add_row(part, _gib(before), _gib(self.bytes_after[part]))
        return table

    def _kinds(self) -> Table:
        table = _table("layers", "count", "relative error")
        for kind, (count, error) in self.by_kind.items():
            table.add_row(kind, str(count), f"{error:.5f}")
        table.add_row("all", str(len(self.layers)), f"{self.relative_error:.5f}")
        return table

    def _worst(self) -> Table:
        table = _table("worst layers", "relative error")
        for layer in self.worst:
            table.add_row(f"{layer.network}: {layer.layer}", f"{layer.relative:.5f}")
        return table


def _relative(layers: Sequence[LayerError]) -> float:
    lost, whole = sum(layer.lost for layer in layers), sum(layer.whole for layer in layers)
    return math.sqrt(lost / whole) if whole else math.sqrt(lost)


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3f}"
