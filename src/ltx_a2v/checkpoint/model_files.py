"""The four files of a model, opened and checked: which tensor of which file belongs to which network.

Nothing but headers is read here, so a wrong file is found in milliseconds and before any memory is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig, upsampler_arguments
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.errors import InvalidModel

Entries = Mapping[str, TensorEntry]
"""Tensors of one network by their name in its module."""


@dataclass(frozen=True)
class GemmaFiles:
    root: Path
    config: Mapping[str, Any]
    """`config.json` of the text model."""
    entries: Entries


@dataclass(frozen=True)
class ModelFiles:
    paths: ModelPaths
    config: ModelConfig
    transformer: Entries
    connectors: Entries
    video_vae: Entries
    audio_encoder: Entries
    upsampler: Entries
    upsampler_arguments: Mapping[str, Any]
    distilled_lora: LoraFile
    gemma: GemmaFiles

    @classmethod
    def open(cls, paths: ModelPaths) -> ModelFiles:
        """Raises `InvalidModel` for whatever is wrong with any of the files."""
        checkpoint = SafetensorsFile.open(paths.checkpoint)
        config = ModelConfig.of(checkpoint)
        parts = {
            "transformer": keys.TRANSFORMER,
            "connectors": keys.CONNECTORS,
            "video_vae": keys.video_vae(config.vae_stages),
            "audio_encoder": keys.AUDIO_ENCODER,
        }
        upsampler = SafetensorsFile.open(paths.spatial_upsampler)
        return cls(
            paths=paths,
            config=config,
            **_split(checkpoint, parts),
            upsampler=upsampler.tensors,
            upsampler_arguments=upsampler_arguments(upsampler),
            distilled_lora=LoraFile.open(paths.distilled_lora),
            gemma=_open_gemma(paths.gemma_root),
        )


def _split(file: SafetensorsFile, parts: Mapping[str, KeyMap]) -> dict[str, dict[str, TensorEntry]]:
    """Give every tensor to the network that takes it; what nobody takes is an error."""
    split: dict[str, dict[str, TensorEntry]] = {part: {} for part in parts}
    unknown = []
    for name, entry in file.tensors.items():
        for part, key_map in parts.items():
            renamed = key_map.to_module(name)
            if renamed is not None:
                split[part][renamed] = entry
                break
        else:
            if not name.startswith(keys.UNUSED):
                unknown.append(name)
    if unknown:
        raise InvalidModel(
            f"{file.path} holds {len(unknown)} tensors that LTX-2.3 does not have: {listed(unknown)}; "
            "is it another model's file?"
        )
    return split


def listed(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


_LANGUAGE_MODEL_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def _open_gemma(root: Path) -> GemmaFiles:
    """A Hugging Face folder of Gemma 3; of its tensors only the language model's are used."""
    if not root.is_dir():
        raise InvalidModel(f"The text encoder folder {root} does not exist.")
    config = _read_json(root / "config.json")
    if not str(config.get("model_type", "")).startswith("gemma3"):
        raise InvalidModel(f"{root} holds a {config.get('model_type')!r} model; LTX-2.3 needs Gemma 3 12B.")
    if not any((root / name).is_file() and (root / name).stat().st_size for name in _TOKENIZER_FILES):
        raise InvalidModel(f"{root} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}); copy it from the model's page.")
    shards = sorted(root.glob("*.safetensors"))
    if not shards:
        raise InvalidModel(f"{root} has no *.safetensors weights; download the text encoder again.")
    tensors = {name: entry for shard in shards for name, entry in SafetensorsFile.open(shard).tensors.items()}
    prefix = next((p for p in _LANGUAGE_MODEL_PREFIXES if f"{p}embed_tokens.weight" in tensors), None)
    if prefix is None:
        raise InvalidModel(f"{root} holds no language model: no 'embed_tokens.weight' in {len(shards)} files.")
    entries = {name.removeprefix(prefix): entry for name, entry in tensors.items() if name.startswith(prefix)}
    return GemmaFiles(root, config.get("text_config", config), entries)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError:
        raise InvalidModel(f"{path} cannot be read; is {path.parent} a Hugging Face folder?") from None
    except ValueError:
        raise InvalidModel(f"{path} is not JSON; download it again.") from None
    if not isinstance(content, dict):
        raise InvalidModel(f"{path} is not a JSON object; download it again.")
    return content
