"""LoRA as y = base(x) + up(down(x)), never merged into the base, so that it works with every format of the base.

The factors of a file are a separate network, with one block per block of the transformer, so that they are loaded, kept
and streamed like any other network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.networks.transformer import BLOCKS
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader, Unchanged

DISTILLED_LORA = "distilled"
"""The name of the network that holds the factors of the distilled LoRA, which a distilled checkpoint lacks."""


class Adapter(nn.Module):
    """The factors of one layer, added to its output by a forward hook: the layer may be of any kind."""

    def __init__(self, down: tuple[int, ...], up: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(down), requires_grad=False)  # [rank, in]
        self.up = nn.Parameter(torch.empty(up), requires_grad=False)  # [out, rank], strength included

    def add(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """In place: at full size the sum is as large as all other activations of a feed-forward."""
        narrow = F.linear(inputs[0], self.down).flatten(0, -2)  # [tokens, rank]
        return output.flatten(0, -2).addmm_(narrow, self.up.t()).view_as(output)


class Adapters(nn.Module):
    """All adapters of one file: those of block i in `transformer_blocks[i]`, the others in `outside`."""

    def __init__(self, file: LoraFile, num_blocks: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(nn.ModuleDict() for _ in range(num_blocks))
        self.outside = nn.ModuleDict()
        self._layers: dict[str, Adapter] = {}
        for layer, pair in file.pairs.items():
            adapter = Adapter(pair.down.shape, pair.up.shape)
            self.get_submodule(_home(layer)).add_module(_key(layer), adapter)
            self._layers[layer] = adapter

    @contextmanager
    def attached(self, transformer: nn.Module) -> Iterator[None]:
        """Adapt the transformer while the context lasts."""
        hooks: list[Any] = []
        try:
            for layer, adapter in self._layers.items():
                hooks.append(transformer.get_submodule(layer).register_forward_hook(adapter.add))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def adapters_loader(file: LoraFile, num_blocks: int, dtype: torch.dtype) -> TensorLoader:
    entries = {}
    for layer, pair in file.pairs.items():
        prefix = f"{_home(layer)}.{_key(layer)}"
        entries[f"{prefix}.down"], entries[f"{prefix}.up"] = pair.down, pair.up

    def make() -> Adapters:
        with torch.device("meta"):
            return Adapters(file, num_blocks)

    blueprint = Blueprint(f"LoRA {file.path.name}", make, entries, block_lists=(BLOCKS,))
    return TensorLoader(blueprint, dtype, _WithStrength(file.strength))


class _WithStrength(Unchanged):
    """Multiplies the strength into one factor of each pair."""

    def __init__(self, strength: float) -> None:
        self._strength = strength

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return [(name, tensor * self._strength if name.endswith(".up") else tensor)]


def _home(layer: str) -> str:
    found = re.match(rf"{BLOCKS}\.\d+(?=\.)", layer)
    return found[0] if found else "outside"


def _key(layer: str) -> str:
    return layer.replace(".", "/")
