"""The text encoder's files: a Hugging Face folder. Only the tensors of the language model are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.paths import check_folder, readable
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, json_object
from ltx_a2v.errors import InvalidModel

if TYPE_CHECKING:
    from ltx_a2v.checkpoint.entries import Entries

_LANGUAGE_MODEL_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class GemmaFiles:
    """The folder, opened and checked; only headers and JSON files have been read."""

    root: Path
    config: Mapping[str, Any]
    """`config.json` of the text model."""
    entries: Entries
    key_map: KeyMap = keys.AS_IN_FILE
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the weights' files: of all of them, as a quantized text encoder is one file."""

    @classmethod
    def open(cls, root: Path, model_type: str, needed: str) -> GemmaFiles:
        """Raises `InvalidModel` for a folder that does not hold a text encoder with its tokenizer, or one whose type
        does not begin with `model_type`; the message then says what is `needed`."""
        check_folder(root, "text encoder folder")
        config = _read_json(root / "config.json")
        if not str(config.get("model_type", "")).startswith(model_type):
            raise InvalidModel(f"{root} holds a {config.get('model_type')!r} model; {needed}.")
        with readable(root):
            if not any((root / name).is_file() and (root / name).stat().st_size for name in _TOKENIZER_FILES):
                raise InvalidModel(
                    f"{root} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}); copy it from the model's page."
                )
        shards = sorted(root.glob("*.safetensors"))
        if not shards:
            raise InvalidModel(f"{root} has no *.safetensors weights; download the text encoder again.")
        files = [SafetensorsFile.open(shard) for shard in shards]
        tensors = {name: entry for file in files for name, entry in file.tensors.items()}
        metadata = {name: value for file in files for name, value in file.metadata.items()}
        prefix = next((p for p in _LANGUAGE_MODEL_PREFIXES if f"{p}embed_tokens.weight" in tensors), None)
        if prefix is None:
            raise InvalidModel(f"{root} holds no language model: no 'embed_tokens.weight' in {len(shards)} files.")
        entries = {name.removeprefix(prefix): entry for name, entry in tensors.items() if name.startswith(prefix)}
        return cls(root, _text_config(root / "config.json", config), entries, KeyMap(((prefix, ""),)), metadata)


def _text_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("text_config", config)
    if not isinstance(found, dict):
        raise InvalidModel(f"{path} describes no text model: its text_config is {found!r}; download it again.")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if type(found.get(name)) is not int or found[name] < 1:
            raise InvalidModel(f"{path} does not say {name} ({found.get(name)!r}); download it again.")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json_object(path.read_bytes())
    except OSError:
        raise InvalidModel(f"{path} cannot be read; is {path.parent} a Hugging Face folder?") from None
    if content is None:
        raise InvalidModel(f"{path} is not a JSON object; download it again.")
    return content
