"""Prompts, their tokenizer and the text encoder, which is drawn and not trained.

Words that matter are tokens of their own, so that the connectors can tell them apart whatever surrounds them; every
other text falls to bytes.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from config import GEMMA
from faces import BACKGROUNDS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import Gemma3TextConfig, Gemma3TextModel

from ltx_a2v.miniature import SPECIAL_TOKENS
from ltx_a2v.versions.ltx_2_3 import LTX_2_3

MAX_TOKENS = LTX_2_3.text_encoder.tokens
MOODS = (
    ("", "neutral", "calm", "with a neutral face"),
    ("smiling", "happy", "cheerful", "with a smile"),
    ("sad", "unhappy", "sorrowful", "with a sad face"),
)
GAZES = (
    ("looks ahead", "looks at the camera", "looks at us", ""),
    ("looks left", "looks to the left", "is turned left"),
    ("looks right", "looks to the right", "is turned right"),
)
WHO = ("A woman", "A man", "A person", "Someone", "A cartoon face", "A drawn face", "She", "He", "A face")
SPEAKS = ("speaks", "talks", "is speaking", "says something", "is talking")
NOTHING_SAID = (
    "",
    LTX_2_3.defaults.negative_prompt,
    LTX_2_3.defaults.negative_prompt,
    "blurry, low quality, mouth out of sync",
)


def prompt(attributes: tuple[int, int, int], random_: random.Random, complete: bool) -> str:
    """Of (background, mood, gaze); some leave something out unless `complete`."""
    background, mood, gaze = attributes
    said = lambda: complete or random_.random() < 0.85  # noqa: E731
    parts = [random_.choice(MOODS[mood]) if said() else "", random_.choice(GAZES[gaze]) if said() else ""]
    colour = list(BACKGROUNDS)[background]
    parts.append(random_.choice((f"{colour} background", f"in front of a {colour} background")) if said() else "")
    parts = [part for part in parts if part]
    random_.shuffle(parts)
    return f"{random_.choice(WHO)} {random_.choice(SPEAKS)}" + "".join(f", {part}" for part in parts) + "."


def words() -> list[str]:
    texts = [*WHO, *SPEAKS, *(p for group in (*MOODS, *GAZES) for p in group), *BACKGROUNDS, "background in front of a"]
    found = {word.strip(",.") for text in texts for word in text.split()}
    return sorted(found | {word.strip(",.") for word in LTX_2_3.defaults.negative_prompt.split() if len(word) > 3})


def tokenizer() -> Tokenizer:
    """One token a byte and one for each of the words above, <bos> in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**SPECIAL_TOKENS, **{char: len(SPECIAL_TOKENS) + i for i, char in enumerate(alphabet)}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL_TOKENS))
    made.add_tokens([AddedToken(word, single_word=True, lstrip=True) for word in words()])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL_TOKENS["<bos>"])]
    )
    return made


def gemma_config() -> dict[str, Any]:
    size = tokenizer().get_vocab_size()
    return GEMMA | {"vocab_size": -(-size // 64) * 64}


def build_gemma(seed: int = 23) -> Gemma3TextModel:
    """With drawn weights, in bfloat16's values, which is how they are kept."""
    config = Gemma3TextConfig(**gemma_config())
    config._attn_implementation = "sdpa"
    model = Gemma3TextModel(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.zero_()
            continue
        spread = parameter.shape[1] ** -0.5
        drawn = torch.randn(parameter.shape, generator=generator) * spread
        parameter.copy_(drawn.bfloat16().float())
    return model


@torch.no_grad()
def hidden_states(model: Gemma3TextModel, texts: list[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """[n, 1024, 64, layers + 1] in bfloat16 and the mask [n, 1024]: padded on the left, as the product does it."""
    coder = tokenizer()
    rows = [coder.encode(text.strip()).ids[:MAX_TOKENS] for text in texts]
    ids = torch.tensor([[SPECIAL_TOKENS["<pad>"]] * (MAX_TOKENS - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (MAX_TOKENS - len(row)) + [1] * len(row) for row in rows])
    model, found = model.to(device), []
    for i, m in zip(ids.split(8), mask.split(8), strict=True):
        out = model(input_ids=i.to(device), attention_mask=m.to(device), output_hidden_states=True, use_cache=False)
        found.append(torch.stack(out.hidden_states, dim=-1).bfloat16())
    return torch.cat(found), mask.to(device)
