"""LoRA files: pairs of low-rank factors, delta = B @ A x strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.errors import InvalidModel

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoraPair:
    """The low-rank factors of one linear layer, as entries of the file: its weight changes by B @ A x strength."""

    down: TensorEntry
    """A: [rank, in_features]."""
    up: TensorEntry
    """B: [out_features, rank]."""


@dataclass(frozen=True)
class LoraFile:
    """One opened LoRA file with the strength that it is applied with; only its header has been read."""

    path: Path
    strength: float
    pairs: Mapping[str, LoraPair]
    """By the name of the linear layer in the diffusers transformer."""

    @classmethod
    def open(cls, path: Path, key_map: KeyMap, strength: float = 1.0) -> LoraFile:
        """Raises `InvalidModel` for a file that is no LoRA of the transformer that `key_map` names."""
        file = SafetensorsFile.open(path)
        layers = {name.removesuffix(_DOWN) for name in file.tensors if name.endswith(_DOWN)}
        expected = {layer + suffix for layer in layers for suffix in (_DOWN, _UP)}
        strange = sorted(expected ^ set(file.tensors))
        if strange or not layers:
            what = f"{strange[0]!r} has no partner or is no part of a LoRA" if strange else "it holds no tensors"
            raise InvalidModel(f"{path} is not a LoRA of lora_A/lora_B pairs: {what}.")
        pairs = {}
        for layer in sorted(layers):
            name = key_map.to_module(layer)
            if name is None:
                raise InvalidModel(f"{path} is a LoRA for another model: {layer!r} is no layer of LTX-2's transformer.")
            pair = LoraPair(file.tensors[layer + _DOWN], file.tensors[layer + _UP])
            for factor in (pair.down, pair.up):
                if len(factor.shape) != 2:
                    raise InvalidModel(
                        f"{path} is not a LoRA for linear layers: {factor.name!r} has shape {list(factor.shape)} and "
                        "is no matrix."
                    )
            pairs[name] = pair
        return cls(path, strength, pairs)

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`shapes`: weight shapes [out, in] of the transformer's linear layers by name."""
        for layer, pair in self.pairs.items():
            shape = shapes.get(layer)
            if shape is None:
                raise InvalidModel(f"{self.path} is a LoRA for another model: this transformer has no layer {layer!r}.")
            fits = (pair.up.shape[0], pair.down.shape[1]) == shape and pair.up.shape[1] == pair.down.shape[0]
            if not fits:
                raise InvalidModel(
                    f"{self.path} is a LoRA for another model: its {layer!r} is {pair.up.shape[0]} x "
                    f"{pair.down.shape[1]}, the transformer's {shape[0]} x {shape[1]}."
                )
