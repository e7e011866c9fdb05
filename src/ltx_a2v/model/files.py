"""Opens and checks the files of a model, and assigns their tensors to networks.

Only headers are read here, so a wrong file is found in milliseconds and before any memory is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.config import read_config, usable_config
from ltx_a2v.checkpoint.entries import Entries, listed
from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.errors import InvalidModel
from ltx_a2v.quantization.choose import Stored, read_stored
from ltx_a2v.versions import ModelConfig, ModelVersion, version_of


@dataclass(frozen=True)
class ModelFiles:
    """A model's files: the headers of all, and each network's tensors."""

    paths: ModelPaths
    config: ModelConfig
    stored: Stored | None
    """The checkpoint's quantization metadata, if it has any."""
    transformer: Entries
    connectors: Entries
    video_vae: Entries
    audio_encoder: Entries
    upsampler: Entries
    upsampler_arguments: Mapping[str, Any]
    distilled_lora: LoraFile | None
    """None where the checkpoint itself is distilled."""
    gemma: GemmaFiles

    @classmethod
    def open(cls, paths: ModelPaths) -> ModelFiles:
        """Raises `InvalidModel` for whatever is wrong with any of the files."""
        checkpoint = SafetensorsFile.open(paths.checkpoint)
        config = open_config(checkpoint)
        lora = paths.distilled_lora
        upsampler = SafetensorsFile.open(paths.spatial_upsampler)
        split = split_checkpoint(checkpoint, config)
        encoder = config.version.text_encoder
        needed = f"{config.version.name} needs {encoder.name}"
        gemma = GemmaFiles.open(paths.gemma_root, encoder.model_type, needed)
        _check_text_encoder_fits(paths.checkpoint, config, split["connectors"], gemma)
        return cls(
            paths=paths,
            config=config,
            stored=read_stored(paths.checkpoint, checkpoint.metadata),
            **split,
            upsampler=upsampler.tensors,
            upsampler_arguments=_upsampler_arguments(upsampler, config.version),
            distilled_lora=None if lora is None else LoraFile.open(lora, config.version.keys.lora),
            gemma=gemma,
        )


def open_config(file: SafetensorsFile) -> ModelConfig:
    """Raises `InvalidModel` when the file does not say what it is, or is of an unknown version."""
    sections = read_config(file)
    version = version_of(file.path, file.metadata, sections)
    with usable_config(file.path):
        return version.config_of(str(file.metadata["model_version"]), sections)


def _upsampler_arguments(file: SafetensorsFile, version: ModelVersion) -> dict[str, Any]:
    arguments = version.read_upsampler(read_config(file))
    if arguments is None:
        raise InvalidModel(f"{file.path} is not a spatial x2 latent upsampler; give {version.files.spatial_upsampler}.")
    return arguments


def split_checkpoint(file: SafetensorsFile, config: ModelConfig) -> dict[str, dict[str, TensorEntry]]:
    """Assign every tensor to a network; a tensor that belongs to none is an error."""
    keys = config.version.keys
    parts: dict[str, KeyMap] = {
        "transformer": keys.transformer,
        "connectors": keys.connectors,
        "video_vae": keys.video_vae(config.vae_stages),
        "audio_encoder": keys.audio_encoder,
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
            if not name.startswith(keys.unused):
                unknown.append(name)
    if unknown:
        raise InvalidModel(
            f"{file.path} holds {listed(unknown)}, which {config.version.name} does not have; is it another model's "
            "file?"
        )
    return split


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
