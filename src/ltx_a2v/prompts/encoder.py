"""Prompts -> contexts, through the text encoder and the connectors or out of the cache.

A cached context is used only where computing it would give the same bits. Its key names all that they depend on: the
text, the weights and configs of the two networks, the tokenizer, how the weights are stored, dtype, device and the
libraries. Weights are too large to be hashed; they are known by the size and time of their files, by where each tensor
lies, and by some bytes of some tensors, which tell apart fine-tunes whose files were given the same time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.errors import InvalidModel
from ltx_a2v.events import Notice
from ltx_a2v.model.files import Entries
from ltx_a2v.model.model import Networks
from ltx_a2v.networks import text
from ltx_a2v.networks.text import Context
from ltx_a2v.phases import Work
from ltx_a2v.prompts.cache import EncodedPrompt, PromptCache
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.settings.defaults import cache_dir

SAMPLED_TENSORS = 16
SAMPLED_BYTES = 2**16
LIBRARIES = ("ltx-a2v", "torch", "transformers", "diffusers")


class PromptEncoder:
    """Contexts of one model's networks. The model is identified when this is made, before any weights are read."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._identity = _identity(networks) if networks.options.prompt_cache else None

    def encode(self, texts: Sequence[str]) -> Work[list[Context]]:
        """The context of each text; only what is not in the cache is computed."""
        keys = self._keys(texts)
        cached = _default_cache() if keys else None
        encoded = {t: found for t, key in keys.items() if cached and (found := cached.get(key, self._networks.device))}
        fresh = self._compute([t for t in dict.fromkeys(texts) if t not in encoded])
        encoded |= fresh
        for t in dict.fromkeys(texts):
            if encoded[t].truncated:
                yield Notice(f"The prompt that begins {t[:30]!r} is cut to {text.MAX_TOKENS} tokens.")
        if cached and fresh and self._keys(texts) == keys:  # else the files changed while they were read
            yield from _store(cached, {keys[t]: prompt for t, prompt in fresh.items()})
        return [encoded[t].context for t in texts]

    def _keys(self, texts: Iterable[str]) -> dict[str, str]:
        """By text; empty where nothing is to be cached, or the files are no longer those that were opened."""
        if self._identity is None or _stamps(self._networks) != self._identity["stamps"]:
            return {}
        return {t: _hash({**self._identity, "text": t.strip()}) for t in texts}

    def _compute(self, texts: Sequence[str]) -> dict[str, EncodedPrompt]:
        if not texts:
            return {}
        networks, gemma = self._networks, self._networks.files.gemma
        tokenizer = text.load_tokenizer(gemma)
        tokens = [text.tokenize(tokenizer, t) for t in texts]
        with networks.text_encoder(len(tokens)) as encoder:
            embedded = [text.embed(gemma, t, networks.dtype).to(networks.device) for t in tokens]
            hidden = [text.encode_text(encoder, e, t) for e, t in zip(embedded, tokens, strict=True)]
        with networks.connectors(len(tokens)) as connectors:
            contexts = [text.connect(connectors, h, t.mask) for h, t in zip(hidden, tokens, strict=True)]
        return {
            t: EncodedPrompt(context, token.truncated)
            for t, context, token in zip(texts, contexts, tokens, strict=True)
        }


def _default_cache() -> PromptCache | None:
    try:
        return PromptCache(cache_dir() / "prompts")
    except RuntimeError:  # a user without a home
        return None


def _store(cached: PromptCache, prompts: dict[str, EncodedPrompt]) -> Work[None]:
    try:
        for key, prompt in prompts.items():
            cached.put(key, prompt)
    except OSError as error:
        yield Notice(f"The encoded prompt could not be kept in {cached.folder}: {error.strerror}.")


def _identity(networks: Networks) -> dict[str, Any] | None:
    """All that contexts depend on besides the text.

    None where that cannot be known: a file cannot be read, which its use will report, or this program was not installed
    and has no version.
    """
    files = networks.files
    try:
        return {
            "stamps": _stamps(networks),
            "weights": [_weights(files.gemma.entries), _weights(files.connectors)],
            "texts": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _small_files(files.gemma.root)],
            "connectors": repr(files.config.connectors_arguments(text.hidden_state_count(files.gemma))),
            "modes": [_mode(networks.text_policy), _mode(networks.policies.connectors)],
            "dtype": str(networks.dtype),
            "device": _device_name(networks.device),
            "libraries": _versions(networks.text_policy),
        }
    except (OSError, InvalidModel, PackageNotFoundError):
        return None


def _weights(entries: Entries) -> list[Any]:
    """Which tensors lie where in their files, and some bytes of some of them."""
    names = sorted(entries)
    sampled = names[:: -(-len(names) // SAMPLED_TENSORS)]
    places = [(n, str(entries[n].dtype), entries[n].shape, entries[n].offset) for n in names]
    return [places, [_sample(entries[name]) for name in sampled]]


def _sample(entry: TensorEntry) -> str:
    size = min(entry.nbytes, SAMPLED_BYTES)
    raw = read_tensor(replace(entry, dtype=torch.uint8, shape=(size,), nbytes=size))
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _stamps(networks: Networks) -> list[tuple[int, int]] | None:
    """Size and time of each file that is read, without its path: a model may be moved."""
    files = networks.files
    entries = [*files.gemma.entries.values(), *files.connectors.values()]
    try:
        paths = [*dict.fromkeys(entry.path for entry in entries), *_small_files(files.gemma.root)]
        return [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in paths)]
    except OSError:
        return None


def _small_files(root: Path) -> list[Path]:
    """The text encoder's config and tokenizer."""
    return sorted(path for path in root.iterdir() if path.suffix in (".json", ".model"))


def _mode(policy: QuantizationPolicy) -> str:
    return f"{policy.mode} {policy.format.__name__}"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions(policy: QuantizationPolicy) -> list[str]:
    libraries = (*LIBRARIES, "bitsandbytes") if policy.format.extra == "bnb" else LIBRARIES
    return [f"{library} {version(library)}" for library in libraries]


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
