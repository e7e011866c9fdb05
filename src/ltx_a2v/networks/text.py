"""Text -> the two contexts: Gemma 3, all of whose hidden states go through the connectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import Tensor
from transformers import AutoTokenizer, Gemma3TextConfig, Gemma3TextModel

from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.checkpoint.model_files import GemmaFiles
from ltx_a2v.errors import InvalidModel
from ltx_a2v.networks.build import on_meta

MAX_TOKENS = 1024


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
        raise InvalidModel(f"The tokenizer in {gemma.root} cannot be loaded: {_first_line(error)}.") from error
    if tokenizer.bos_token_id is None:
        raise InvalidModel(f"The tokenizer in {gemma.root} has no beginning-of-text token; is it Gemma's?")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


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


def finish_gemma(model: Gemma3TextModel, device: torch.device) -> None:
    """Make what no file holds: rotary frequencies and the embedding's scale."""
    model.rotary_emb = type(model.rotary_emb)(model.config).to(device)
    model.embed_tokens.embed_scale = torch.tensor(model.embed_tokens.scalar_embed_scale, device=device)


def hidden_state_count(gemma: GemmaFiles) -> int:
    """The embedding's output and every layer's."""
    return int(gemma.config["num_hidden_layers"]) + 1


def build_connectors(config: ModelConfig, gemma: GemmaFiles) -> LTX2TextConnectors:
    return on_meta(LTX2TextConnectors, **config.connectors_arguments(hidden_state_count(gemma)))


def encode_text(gemma: Gemma3TextModel, tokens: Tokens) -> Tensor:
    """All hidden states, [1, 1024, 3840, 49] (the last one after the final norm)."""
    output = gemma(
        input_ids=tokens.ids.to(gemma.device),
        attention_mask=tokens.mask.to(gemma.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(output.hidden_states, dim=-1)


def connect(connectors: LTX2TextConnectors, hidden_states: Tensor, mask: Tensor) -> Context:
    video, audio, _ = connectors(hidden_states, mask.to(hidden_states.device))
    return Context(video, audio)
