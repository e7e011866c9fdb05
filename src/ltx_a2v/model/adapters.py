"""LoRA beside its base: y = base(x) + up(down(x)), never merged, so that any base can carry it.

The factors of a file are a network of their own, with one block per block of the transformer, so that they are loaded,
kept and streamed like everything else.
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
from ltx_a2v.model.recipe import Recipe
from ltx_a2v.networks.transformer import BLOCKS


class Adapter(nn.Module):
    """The factors of one layer, added to its output by a forward hook: the layer may be of any kind."""

    def __init__(self, down: tuple[int, ...], up: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(down), requires_grad=False)  # [rank, in]
        self.up = nn.Parameter(torch.empty(up), requires_grad=False)  # [out, rank], strength included

    def add(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """In place: at full size the sum is as large as all else that a feed-forward makes."""
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


def adapters_recipe(file: LoraFile, num_blocks: int, dtype: torch.dtype) -> Recipe:
    entries = {}
    for layer, pair in file.pairs.items():
        prefix = f"{_home(layer)}.{_key(layer)}"
        entries[f"{prefix}.down"], entries[f"{prefix}.up"] = pair.down, pair.up

    def with_strength(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        yield name, tensor * file.strength if name.endswith(".up") else tensor

    def make() -> Adapters:
        with torch.device("meta"):
            return Adapters(file, num_blocks)

    return Recipe(f"LoRA {file.path.name}", make, entries, dtype, convert=with_strength, block_lists=(BLOCKS,))


def _home(layer: str) -> str:
    found = re.match(rf"{BLOCKS}\.\d+(?=\.)", layer)
    return found[0] if found else "outside"


def _key(layer: str) -> str:
    return layer.replace(".", "/")
