"""Text -> contexts: tokenizer, Gemma 3, and the connectors, which take all hidden states of Gemma."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma3TextConfig, Gemma3TextModel

from ltx_a2v.checkpoint.config import first_line
from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.reader import read_rows
from ltx_a2v.errors import InvalidModel
from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.diffusers_modules import LTX2TextConnectors
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.versions import ModelConfig

EMBEDDING = "embed_tokens.weight"
CONNECTOR_BLOCKS = ("video_connector.transformer_blocks", "audio_connector.transformer_blocks")


class Tokens(NamedTuple):
    """One tokenized text: int64 ids and mask; `truncated` where the text was longer than `length` tokens."""

    ids: Tensor
    """[1, length], padded on the left."""
    mask: Tensor
    """[1, length], 1 where there is text."""
    truncated: bool


class Context(NamedTuple):
    """The inputs of the transformer's text cross-attention."""

    video: Tensor
    """[1, tokens, video dim]"""
    audio: Tensor
    """[1, tokens, audio dim]"""


def load_tokenizer(gemma: GemmaFiles) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(gemma.root, local_files_only=True)
    except Exception as error:  # an unknown file can make the tokenizers raise anything
        raise InvalidModel(f"The tokenizer in {gemma.root} cannot be loaded: {first_line(error)}.") from error
    if tokenizer.bos_token_id is None:
        raise InvalidModel(f"The tokenizer in {gemma.root} has no beginning-of-text token; is it Gemma's?")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokenizer(gemma: GemmaFiles) -> None:
    """Raises `InvalidModel` unless every token has a row in the embedding table."""
    largest = max(load_tokenizer(gemma).get_vocab().values(), default=0)
    rows = gemma.entries[EMBEDDING].shape[0]
    if largest >= rows:
        raise InvalidModel(
            f"The tokenizer in {gemma.root} is another model's: it has token {largest}, the weights end at {rows - 1}."
        )


def tokenize(tokenizer: Any, text: str, length: int) -> Tokens:
    """Always beginning with <bos>; cut to `length` tokens, or padded on the left (reference: `LTXGemmaTokenizer`)."""
    ids = list(tokenizer(text.strip(), padding=False).input_ids)
    if ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    truncated, ids = len(ids) > length, ids[:length]
    padding = length - len(ids)
    return Tokens(
        ids=torch.tensor([[tokenizer.pad_token_id] * padding + ids]),
        mask=torch.tensor([[0] * padding + [1] * len(ids)]),
        truncated=truncated,
    )


def build_gemma(gemma: GemmaFiles) -> Gemma3TextModel:
    config = Gemma3TextConfig(**gemma.config)
    config._attn_implementation = "sdpa"
    return on_meta(Gemma3TextModel, config=config)


def gemma_blueprint(gemma: GemmaFiles) -> Blueprint:
    return Blueprint(
        "text encoder",
        lambda: build_gemma(gemma),
        gemma.entries,
        gemma.key_map,
        block_lists=("layers",),
        left_out=(EMBEDDING,),
    )


def finish_gemma(model: Gemma3TextModel, device: torch.device) -> None:
    """Make the rotary frequencies, which are in no file."""
    model.rotary_emb = type(model.rotary_emb)(model.config).to(device)


def embed(gemma: GemmaFiles, tokens: Tokens, dtype: torch.dtype) -> Tensor:
    """Token embeddings [1, tokens, hidden size] in `dtype`, on the CPU.

    Only the rows of the tokens are read: the table's 2 GB are never in memory. Scaled as Gemma does it, by
    the root of the hidden size rounded to `dtype`.
    """
    entry = gemma.entries[EMBEDDING]
    rows = read_rows(entry, tokens.ids[0].tolist()).to(dtype)
    return (rows * torch.tensor(entry.shape[1] ** 0.5).to(dtype))[None]


def hidden_state_count(gemma: GemmaFiles) -> int:
    """The embedding's output and every layer's."""
    return int(gemma.config["num_hidden_layers"]) + 1


def build_connectors(config: ModelConfig, hidden_states: int) -> LTX2TextConnectors:
    return on_meta(LTX2TextConnectors, **config.connectors_arguments(hidden_states))


def connectors_blueprint(config: ModelConfig, hidden_states: int, entries: Entries) -> Blueprint:
    return Blueprint(
        "text connectors",
        lambda: build_connectors(config, hidden_states),
        entries,
        config.version.keys.connectors,
        CONNECTOR_BLOCKS,
    )


def encode_text(gemma: Gemma3TextModel, embeddings: Tensor, tokens: Tokens) -> Tensor:
    """All hidden states, [1, tokens, hidden size, layers + 1] (the last one after the final norm)."""
    output = gemma(
        inputs_embeds=embeddings,
        attention_mask=tokens.mask.to(embeddings.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(output.hidden_states, dim=-1)


def connect(connectors: LTX2TextConnectors, hidden_states: Tensor, mask: Tensor) -> Context:
    video, audio, _ = connectors(hidden_states, mask.to(hidden_states.device))
    return Context(video, audio)
