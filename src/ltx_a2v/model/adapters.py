"""The factors of LoRA files, as networks of their own; the stored weights of the transformer never change.

They have one block per block of the transformer, so that they are loaded, kept and streamed like any other network.
How a layer computes with its factors is decided in `quantization/apply.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.networks.transformer import BLOCKS
from ltx_a2v.quantization.apply import adapted
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader, Unchanged

DISTILLED_LORA = "distilled"
"""The name of the network that holds the factors of the distilled LoRA, which a distilled checkpoint lacks."""


class Adapter(nn.Module):
    """The factors of one layer, which may be of any format."""

    def __init__(self, down: tuple[int, ...], up: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(down), requires_grad=False)  # [rank, in]
        self.up = nn.Parameter(torch.empty(up), requires_grad=False)  # [out, rank], strength included


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
        with ExitStack() as stack:
            for name, adapter in self._layers.items():
                layer = transformer.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                stack.enter_context(adapted(layer, adapter))
            yield


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
    """Within its home, so that blocks with the same adapters have the same names."""
    return layer.removeprefix(f"{_home(layer)}.").replace(".", "/")
