"""Prompts -> contexts, through the text encoder and the connectors, or from the cache.

A cached context is used only where computing it would give the same bits. Its key covers everything that they depend
on: the text, the weights and configs of the two networks, the tokenizer, how the weights are stored, dtype, device,
fused or plain kernels, and the libraries. Weights are too large to be hashed. They are identified by the size and time
of their files, the offset of each tensor, and some bytes of some tensors, which distinguish fine-tunes whose files have
the same time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx_a2v import kernels
from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.errors import InvalidModel
from ltx_a2v.events import Notice
from ltx_a2v.model.in_use import ModelInUse
from ltx_a2v.model.model import Model
from ltx_a2v.networks import text
from ltx_a2v.networks.text import Context, Tokens
from ltx_a2v.phases import Work
from ltx_a2v.prompts.cache import EncodedPrompt, PromptCache
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.settings.defaults import cache_dir

SAMPLED_TENSORS = 16
SAMPLED_BYTES = 2**16
LIBRARIES = ("ltx-a2v", "torch", "transformers", "diffusers")


class PromptEncoder:
    """Encodes the prompts of one model, which is identified in `__init__`, before any weights are read."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._identity = _identity(model) if model.options.prompt_cache else None
        self.encoded = 0
        """Texts of the last request that were not in the cache."""

    def encode(self, in_use: ModelInUse, texts: Sequence[str]) -> Work[list[Context]]:
        """The context of each text; texts that are not in the cache are computed."""
        keys = self._keys(texts)
        cached = _default_cache() if keys else None
        encoded = {t: found for t, key in keys.items() if cached and (found := cached.get(key, in_use.device))}
        missing = [t for t in dict.fromkeys(texts) if t not in encoded]
        self.encoded = len(missing)
        fresh = compute_contexts(in_use, self.model.files.gemma, self._tokenizer, missing) if missing else {}
        encoded |= fresh
        for t in dict.fromkeys(texts):
            if encoded[t].truncated:
                longest = in_use.config.version.text_encoder.tokens
                yield Notice(f"The prompt that begins {t[:30]!r} is cut to {longest} tokens.")
        if cached and fresh and self._keys(texts) == keys:  # else the files changed while they were read
            yield from _store(cached, {keys[t]: prompt for t, prompt in fresh.items()})
        return [encoded[t].context for t in texts]

    @cached_property
    def _tokenizer(self) -> Any:
        """Loaded once: Gemma's has 262,000 tokens."""
        return text.load_tokenizer(self.model.files.gemma)

    def _keys(self, texts: Iterable[str]) -> dict[str, str]:
        """By text; empty where nothing is to be cached, or the files are no longer those that were opened."""
        if self._identity is None or _stamps(self.model) != self._identity["stamps"]:
            return {}
        # only now: finding out compiles a kernel, which takes GPU memory
        fused = kernels.fused(self.model.device, self.model.dtype)
        return {t: _hash({**self._identity, "fused": fused, "text": t.strip()}) for t in texts}


def compute_contexts(
    model: ModelInUse, gemma: GemmaFiles, tokenizer: Any, texts: Sequence[str]
) -> dict[str, EncodedPrompt]:
    """Tokens -> hidden states -> contexts; the text encoder and the connectors are loaded one after the other."""
    length = model.config.version.text_encoder.tokens
    tokens = [text.tokenize(tokenizer, t, length) for t in texts]
    hidden = run_text_encoder(model, gemma, tokens)
    contexts = run_connectors(model, hidden, [t.mask for t in tokens])
    return {t: EncodedPrompt(c, token.truncated) for t, c, token in zip(texts, contexts, tokens, strict=True)}


def run_text_encoder(model: ModelInUse, gemma: GemmaFiles, tokens: Sequence[Tokens]) -> list[Tensor]:
    """-> all hidden states of each text, [1, tokens, hidden size, layers + 1].

    All texts share one sweep, so streamed layers cross the bus once; those that fill every token have their own.
    """
    sweeps = [some for padded in (True, False) if (some := [i for i, t in enumerate(tokens) if t.padded is padded])]
    hidden: dict[int, Tensor] = {}
    with model.text_encoder(len(sweeps)) as encoder:
        for sweep in sweeps:
            together = [tokens[i] for i in sweep]
            embedded = [text.embed(gemma, t, model.dtype).to(model.device) for t in together]
            hidden |= zip(sweep, text.encode_texts(encoder, embedded, together), strict=True)
    return [hidden[i] for i in range(len(tokens))]


def run_connectors(model: ModelInUse, hidden: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Context]:
    with model.connectors(len(hidden)) as connectors:
        return [text.connect(connectors, h, mask) for h, mask in zip(hidden, masks, strict=True)]


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


def _identity(model: Model) -> dict[str, Any] | None:
    """Everything that contexts depend on, except the text.

    None where it cannot be determined: a file cannot be read, which its use will report, or the program is not
    installed and has no version.
    """
    files = model.files
    try:
        return {
            "stamps": _stamps(model),
            "weights": [_weights(files.gemma.entries), _weights(files.connectors)],
            "texts": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _small_files(files.gemma.root)],
            "connectors": repr(files.config.connectors_arguments(text.hidden_state_count(files.gemma))),
            "modes": [_mode(model.text_policy), _mode(model.connectors_policy)],
            "dtype": str(model.dtype),
            "device": _device_name(model.device),
            "libraries": _versions(model.text_policy),
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
    raw = read_tensor(replace(entry, format="U8", shape=(size,), nbytes=size))
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _stamps(model: Model) -> list[tuple[int, int]] | None:
    """Size and time of each file that is read, without its path: a model may be moved."""
    files = model.files
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
