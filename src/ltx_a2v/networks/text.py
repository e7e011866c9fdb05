"""Text -> the two contexts: Gemma 3, all of whose hidden states go through the connectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import Tensor
from transformers import AutoTokenizer, Gemma3TextConfig, Gemma3TextModel

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig, first_line
from ltx_a2v.checkpoint.reader import read_rows
from ltx_a2v.errors import InvalidModel
from ltx_a2v.model.files import Entries, GemmaFiles
from ltx_a2v.model.recipe import Recipe
from ltx_a2v.networks.build import on_meta
from ltx_a2v.quantization.policy import QuantizationPolicy

MAX_TOKENS = 1024
EMBEDDING = "embed_tokens.weight"
CONNECTOR_BLOCKS = ("video_connector.transformer_blocks", "audio_connector.transformer_blocks")


class Tokens(NamedTuple):
    ids: Tensor
    """[1, 1024], padded on the left."""
    mask: Tensor
    """[1, 1024], 1 where there is text."""
    truncated: bool


class Context(NamedTuple):
    """What the transformer's text cross-attention sees."""

    video: Tensor
    """[1, 1024, 4096]"""
    audio: Tensor
    """[1, 1024, 2048]"""


def load_tokenizer(gemma: GemmaFiles) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(gemma.root, local_files_only=True)
    except Exception as error:  # whatever a foreign file makes the tokenizers raise
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


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """Padded on the left to 1024, always beginning with <bos> (reference: `LTXGemmaTokenizer`)."""
    ids = list(tokenizer(text.strip(), padding=False).input_ids)
    if ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    truncated, ids = len(ids) > MAX_TOKENS, ids[:MAX_TOKENS]
    padding = MAX_TOKENS - len(ids)
    return Tokens(
        ids=torch.tensor([[tokenizer.pad_token_id] * padding + ids]),
        mask=torch.tensor([[0] * padding + [1] * len(ids)]),
        truncated=truncated,
    )


def build_gemma(gemma: GemmaFiles) -> Gemma3TextModel:
    config = Gemma3TextConfig(**gemma.config)
    config._attn_implementation = "sdpa"
    return on_meta(Gemma3TextModel, config=config)


def gemma_recipe(gemma: GemmaFiles, dtype: torch.dtype, policy: QuantizationPolicy) -> Recipe:
    return Recipe(
        "text encoder",
        lambda: build_gemma(gemma),
        gemma.entries,
        dtype,
        policy.apply,
        policy.convert,
        block_lists=("layers",),
        left_out=(EMBEDDING,),
        key_map=gemma.key_map,
    )


def finish_gemma(model: Gemma3TextModel, device: torch.device) -> None:
    """Make what no file holds: the rotary frequencies."""
    model.rotary_emb = type(model.rotary_emb)(model.config).to(device)


def embed(gemma: GemmaFiles, tokens: Tokens, dtype: torch.dtype) -> Tensor:
    """Token embeddings [1, 1024, 3840] in `dtype`, on the CPU.

    Only the rows that occur are read: the table's 2 GB never need to be in memory. Scaled as Gemma does it, by
    sqrt(3840) rounded to `dtype`.
    """
    entry = gemma.entries[EMBEDDING]
    rows = read_rows(entry, tokens.ids[0].tolist()).to(dtype)
    return (rows * torch.tensor(entry.shape[1] ** 0.5).to(dtype))[None]


def hidden_state_count(gemma: GemmaFiles) -> int:
    """The embedding's output and every layer's."""
    return int(gemma.config["num_hidden_layers"]) + 1


def build_connectors(config: ModelConfig, hidden_states: int) -> LTX2TextConnectors:
    return on_meta(LTX2TextConnectors, **config.connectors_arguments(hidden_states))


def connectors_recipe(
    config: ModelConfig,
    hidden_states: int,
    entries: Entries,
    dtype: torch.dtype,
    policy: QuantizationPolicy,
    already_converted: bool = False,
) -> Recipe:
    return Recipe(
        "text connectors",
        lambda: build_connectors(config, hidden_states),
        entries,
        dtype,
        policy.apply,
        policy.convert,
        already_converted,
        CONNECTOR_BLOCKS,
        key_map=keys.CONNECTORS,
    )


def encode_text(gemma: Gemma3TextModel, embeddings: Tensor, tokens: Tokens) -> Tensor:
    """All hidden states, [1, 1024, 3840, 49] (the last one after the final norm)."""
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
