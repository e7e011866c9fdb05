"""The four files of a model, opened and checked: which tensor of which file belongs to which network.

Nothing but headers is read here, so a wrong file is found in milliseconds and before any memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig, upsampler_arguments
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.paths import ModelPaths, check_folder, readable
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry, json_object
from ltx_a2v.errors import InvalidModel
from ltx_a2v.quantization.choose import Stored, read_stored

Entries = Mapping[str, TensorEntry]
"""Tensors of one network by their name in its module."""


@dataclass(frozen=True)
class GemmaFiles:
    root: Path
    config: Mapping[str, Any]
    """`config.json` of the text model."""
    entries: Entries
    key_map: KeyMap = keys.AS_IN_FILE


@dataclass(frozen=True)
class ModelFiles:
    paths: ModelPaths
    config: ModelConfig
    stored: Stored | None
    """How the checkpoint was quantized, where it says so."""
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
        upsampler = SafetensorsFile.open(paths.spatial_upsampler)
        split = split_checkpoint(checkpoint, config)
        gemma = _open_gemma(paths.gemma_root)
        _check_text_encoder_fits(paths.checkpoint, config, split["connectors"], gemma)
        return cls(
            paths=paths,
            config=config,
            stored=read_stored(paths.checkpoint, checkpoint.metadata),
            **split,
            upsampler=upsampler.tensors,
            upsampler_arguments=upsampler_arguments(upsampler),
            distilled_lora=LoraFile.open(paths.distilled_lora),
            gemma=gemma,
        )


def split_checkpoint(file: SafetensorsFile, config: ModelConfig) -> dict[str, dict[str, TensorEntry]]:
    """Give every tensor to the network that takes it; what nobody takes is an error."""
    parts: dict[str, KeyMap] = {
        "transformer": keys.TRANSFORMER,
        "connectors": keys.CONNECTORS,
        "video_vae": keys.video_vae(config.vae_stages),
        "audio_encoder": keys.AUDIO_ENCODER,
    }
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
            f"{file.path} holds {listed(unknown)}, which LTX-2.3 does not have; is it another model's file?"
        )
    return split


def listed(names: list[str], what: str = "tensor", most: int = 5) -> str:
    """How many there are, and the first few names."""
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({', '.join(sorted(names)[:most])}{more})"


_LANGUAGE_MODEL_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def _open_gemma(root: Path) -> GemmaFiles:
    """A Hugging Face folder of Gemma 3; of its tensors only the language model's are used."""
    check_folder(root, "text encoder folder")
    config = _read_json(root / "config.json")
    if not str(config.get("model_type", "")).startswith("gemma3"):
        raise InvalidModel(f"{root} holds a {config.get('model_type')!r} model; LTX-2.3 needs Gemma 3 12B.")
    with readable(root):
        if not any((root / name).is_file() and (root / name).stat().st_size for name in _TOKENIZER_FILES):
            raise InvalidModel(
                f"{root} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}); copy it from the model's page."
            )
    shards = sorted(root.glob("*.safetensors"))
    if not shards:
        raise InvalidModel(f"{root} has no *.safetensors weights; download the text encoder again.")
    tensors = {name: entry for shard in shards for name, entry in SafetensorsFile.open(shard).tensors.items()}
    prefix = next((p for p in _LANGUAGE_MODEL_PREFIXES if f"{p}embed_tokens.weight" in tensors), None)
    if prefix is None:
        raise InvalidModel(f"{root} holds no language model: no 'embed_tokens.weight' in {len(shards)} files.")
    entries = {name.removeprefix(prefix): entry for name, entry in tensors.items() if name.startswith(prefix)}
    return GemmaFiles(root, _text_config(root / "config.json", config), entries, KeyMap(((prefix, ""),)))


def _text_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("text_config", config)
    if not isinstance(found, dict):
        raise InvalidModel(f"{path} describes no text model: its text_config is {found!r}; download it again.")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if type(found.get(name)) is not int or found[name] < 1:
            raise InvalidModel(f"{path} does not say {name} ({found.get(name)!r}); download it again.")
    return found


def _check_text_encoder_fits(path: Path, config: ModelConfig, connectors: Entries, gemma: GemmaFiles) -> None:
    """The connectors' first layer takes every hidden state, the embedding's and each layer's, side by side."""
    width, layers = gemma.config["hidden_size"], gemma.config["num_hidden_layers"]
    if width != config.caption_channels:
        raise InvalidModel(
            f"{gemma.root} and {path} do not belong together: the text encoder's hidden size is {width}, the "
            f"checkpoint was made for {config.caption_channels}."
        )
    projection = connectors.get("video_text_proj_in.weight")
    if projection is None or len(projection.shape) != 2 or projection.shape[1] % width:
        return  # which the connectors' own check says
    if projection.shape[1] != width * (layers + 1):
        raise InvalidModel(
            f"{gemma.root} and {path} do not belong together: the text encoder has {layers} layers, the checkpoint "
            f"was made for {projection.shape[1] // width - 1}."
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json_object(path.read_bytes())
    except OSError:
        raise InvalidModel(f"{path} cannot be read; is {path.parent} a Hugging Face folder?") from None
    if content is None:
        raise InvalidModel(f"{path} is not a JSON object; download it again.")
    return content
