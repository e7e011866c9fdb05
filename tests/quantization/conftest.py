from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import nn


@pytest.fixture(autouse=True)
def _few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _needs_extra(request: pytest.FixtureRequest) -> None:
    parameters = getattr(request.node, "callspec", None)
    values = [str(value) for value in parameters.params.values()] if parameters else []
    if any(value.endswith("-quanto") for value in values):
        pytest.importorskip("optimum")
    if "bnb-nf4" in values:
        pytest.importorskip("bitsandbytes")


@pytest.fixture
def transformer() -> nn.Module:
    """Three blocks of the real architecture, on `meta`, in bf16."""
    with torch.device("meta"):
        model: nn.Module = LTX2VideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=64,
            cross_attention_dim=128,
            audio_num_attention_heads=2,
            audio_attention_head_dim=32,
            audio_cross_attention_dim=64,
            num_layers=3,
            caption_channels=128,
            gated_attn=True,
            audio_gated_attn=True,
            cross_attn_mod=True,
            audio_cross_attn_mod=True,
            perturbed_attn=True,
            use_prompt_embeddings=False,
            rope_type="split",
        )
    return model.to(torch.bfloat16)


@pytest.fixture
def connectors() -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = LTX2TextConnectors(
            caption_channels=64,
            text_proj_in_factor=3,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=64,
            video_connector_num_layers=1,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=32,
            audio_connector_num_layers=1,
            video_gated_attn=True,
            audio_gated_attn=True,
            per_modality_projections=True,
            video_hidden_dim=128,
            audio_hidden_dim=64,
            proj_bias=True,
        )
    return model.to(torch.bfloat16)
