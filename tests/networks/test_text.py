"""From text to contexts: tokens, and the text encoder in each of its modes, wherever its weights are."""

from __future__ import annotations

import pytest
import torch

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.errors import InvalidMode
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.networks import text
from ltx_a2v.networks.text import Context
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions
from tests.networks.conftest import encode, open_model, same

PROMPT = "A robot speaks to the camera."
QUANTIZED = ["int4", "bnb-nf4"]


def context_of(model: ModelPaths, mode: str, placement: Placement | None = None) -> Context:
    opened = open_model(model, text_encoder_quantization=mode, prompt_cache=False)
    placements = {"text_encoder": placement or Placement()}
    contexts, _ = encode(PromptEncoder(opened), PROMPT, placements=placements)
    return contexts[0]


@pytest.fixture(scope="module")
def unquantized(model: ModelPaths) -> Context:
    return context_of(model, "none")


def test_tokens_are_padded_on_the_left_and_begin_with_bos(model: ModelPaths) -> None:
    tokenizer = text.load_tokenizer(ModelFiles.open(model).gemma)
    tokens = text.tokenize(tokenizer, "  ab \n", 1024)

    assert tokens.ids.shape == tokens.mask.shape == (1, 1024)
    assert tokens.ids[0, :-3].unique().tolist() == [tokenizer.pad_token_id]
    assert tokenizer.convert_ids_to_tokens(tokens.ids[0, -3:].tolist()) == ["<bos>", "a", "b"]
    assert tokens.mask[0].tolist() == [0] * 1021 + [1] * 3
    assert not tokens.truncated


def test_tokens_beyond_1024_are_cut_at_the_end(model: ModelPaths) -> None:
    tokenizer = text.load_tokenizer(ModelFiles.open(model).gemma)
    fits, cut = (text.tokenize(tokenizer, "a" * letters + "b", 1024) for letters in (1022, 1023))

    assert not fits.truncated
    assert cut.truncated
    assert fits.mask.all()
    assert cut.mask.all()
    assert tokenizer.convert_ids_to_tokens([fits.ids[0, -1], cut.ids[0, -1]]) == ["b", "a"]
    assert cut.ids[0, 0] == tokenizer.bos_token_id


@pytest.mark.parametrize("mode", QUANTIZED)
def test_four_bits_drift_a_little(model: ModelPaths, unquantized: Context, mode: str) -> None:
    for value, expected in zip(context_of(model, mode), unquantized, strict=True):
        drift = float((value - expected).norm() / expected.norm())
        assert 1e-3 < drift < 0.3


@pytest.mark.parametrize("mode", QUANTIZED)
def test_same_bits_resident_and_streamed(model: ModelPaths, mode: str) -> None:
    resident = context_of(model, mode, Placement("device"))
    assert same(context_of(model, mode, Placement("host", 0)), resident)
    assert same(context_of(model, mode, Placement("file", 1)), resident)


def test_four_bits_take_a_quarter(model: ModelPaths) -> None:
    """Of the layers; 4.5 bits against 32 here, and norms stay what they are."""

    def host_bytes(mode: str) -> int:
        opened = open_model(model, text_encoder_quantization=mode)
        with torch.inference_mode(), opened.within({"text_encoder": Placement("host")}).text_encoder(1):
            return opened.networks["text_encoder"].host_bytes

    assert host_bytes("int4") < 0.2 * host_bytes("none")


def test_unknown_modes_are_refused_when_the_model_is_opened(model: ModelPaths) -> None:
    with pytest.raises(InvalidMode, match="choose one of none, int4, bnb-nf4"):
        A2VPipeline.open(model, device="cpu", options=LoadOptions(text_encoder_quantization="nf4"))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks each use of a network copied."""
    counted: list[int] = []
    close = BlockStream.close
    monkeypatch.setattr(BlockStream, "close", lambda stream: (counted.append(stream.copies), close(stream))[1])
    return counted


@pytest.mark.parametrize("mode", ["none", *QUANTIZED])
def test_two_prompts_share_a_sweep_and_have_the_bits_that_each_has_alone(
    model: ModelPaths, mode: str, copies: list[int]
) -> None:
    opened = open_model(model, text_encoder_quantization=mode, prompt_cache=False)
    placements = {"text_encoder": Placement("file", 0)}
    together, _ = encode(PromptEncoder(opened), PROMPT, "Blurry.", placements=placements)
    assert copies[0] == 3  # the text encoder's layers, each once

    for prompt, context in zip((PROMPT, "Blurry."), together, strict=True):
        assert same(context, encode(PromptEncoder(opened), prompt, placements=placements)[0][0])


def test_prompts_that_fill_every_token_have_a_sweep_of_their_own(model: ModelPaths, copies: list[int]) -> None:
    """transformers gives attention no mask where nothing is padded, and on a GPU another kernel then runs."""
    opened = open_model(model, prompt_cache=False)
    prompts = "a" * 1023, PROMPT, "b" * 1023
    together, _ = encode(PromptEncoder(opened), *prompts, placements={"text_encoder": Placement("file", 0)})
    assert copies[0] == 2 * 3
    for prompt, context in zip(prompts, together, strict=True):
        assert same(context, encode(PromptEncoder(opened), prompt)[0][0])


def test_every_layers_hidden_states_are_those_of_the_encoders_own_forward(model: ModelPaths) -> None:
    opened = open_model(model, prompt_cache=False)
    gemma = opened.files.gemma
    tokens = [text.tokenize(text.load_tokenizer(gemma), prompt, 1024) for prompt in (PROMPT, "Blurry.")]
    in_use = opened.within({"text_encoder": Placement("device")})
    with torch.inference_mode(), in_use.text_encoder(3) as encoder:
        embedded = [text.embed(gemma, t, torch.float32) for t in tokens]
        states = text.encode_texts(encoder, embedded, tokens)
        for state, embeddings, t in zip(states, embedded, tokens, strict=True):
            alone = encoder(inputs_embeds=embeddings, attention_mask=t.mask, output_hidden_states=True, use_cache=False)
            assert torch.equal(state, torch.stack(alone.hidden_states, dim=-1))
