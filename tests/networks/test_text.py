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
from ltx_a2v.settings.loading import LoadOptions
from tests.networks.conftest import encode, open_networks, same

PROMPT = "A robot speaks to the camera."
QUANTIZED = ["int4", "bnb-nf4"]


def context_of(model: ModelPaths, mode: str, placement: Placement | None = None) -> Context:
    networks = open_networks(model, text_encoder_quantization=mode, prompt_cache=False)
    networks.placements["text_encoder"] = placement or Placement()
    contexts, _ = encode(PromptEncoder(networks), PROMPT)
    return contexts[0]


@pytest.fixture(scope="module")
def unquantized(model: ModelPaths) -> Context:
    return context_of(model, "none")


def test_tokens_are_padded_on_the_left_and_begin_with_bos(model: ModelPaths) -> None:
    tokenizer = text.load_tokenizer(ModelFiles.open(model).gemma)
    tokens = text.tokenize(tokenizer, "  ab \n")

    assert tokens.ids.shape == tokens.mask.shape == (1, 1024)
    assert tokens.ids[0, :-3].unique().tolist() == [tokenizer.pad_token_id]
    assert tokenizer.convert_ids_to_tokens(tokens.ids[0, -3:].tolist()) == ["<bos>", "a", "b"]
    assert tokens.mask[0].tolist() == [0] * 1021 + [1] * 3
    assert not tokens.truncated


def test_tokens_beyond_1024_are_cut_at_the_end(model: ModelPaths) -> None:
    tokenizer = text.load_tokenizer(ModelFiles.open(model).gemma)
    fits, cut = (text.tokenize(tokenizer, "a" * letters + "b") for letters in (1022, 1023))

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
        networks = open_networks(model, text_encoder_quantization=mode)
        networks.placements["text_encoder"] = Placement("host")
        with torch.inference_mode(), networks.text_encoder(1):
            return networks._networks["text_encoder"].host_bytes

    assert host_bytes("int4") < 0.2 * host_bytes("none")


def test_unknown_modes_are_refused_when_the_model_is_opened(model: ModelPaths) -> None:
    with pytest.raises(InvalidMode, match="choose one of none, int4, bnb-nf4"):
        A2VPipeline.open(model, device="cpu", options=LoadOptions(text_encoder_quantization="nf4"))
