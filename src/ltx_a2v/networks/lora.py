"""LoRA beside its base: y = base(x) + up(down(x)), never merged, so that any base can carry it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.reader import read_tensor


class Adapter:
    """The factors of one layer; a forward hook, so that it works on whatever kind of linear the layer is."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down = down  # [rank, in]
        self.up = up  # [out, rank], strength included

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], self.down), self.up)


def load_adapters(files: Iterable[LoraFile], device: torch.device, dtype: torch.dtype) -> dict[str, list[Adapter]]:
    """By layer name; several files may adapt one layer."""
    adapters: dict[str, list[Adapter]] = {}
    for file in files:
        for layer, pair in file.pairs.items():
            down, up = (read_tensor(entry).to(device, dtype) for entry in (pair.down, pair.up))
            adapters.setdefault(layer, []).append(Adapter(down, up * file.strength))
    return adapters


@contextmanager
def attached(transformer: nn.Module, adapters: dict[str, list[Adapter]]) -> Iterator[None]:
    """Adapt the transformer while the context lasts."""
    hooks: list[Any] = []
    try:
        for layer, several in adapters.items():
            hooks += [transformer.get_submodule(layer).register_forward_hook(adapter) for adapter in several]
        yield
    finally:
        for hook in hooks:
            hook.remove()
