"""The puppet's architecture, in the words of an original checkpoint's `config`."""

from __future__ import annotations

from typing import Any

from ltx_a2v.miniature import AUDIO_VAE as MINIATURE_AUDIO_VAE
from ltx_a2v.miniature import GEMMA as MINIATURE_GEMMA
from ltx_a2v.miniature import MODEL_VERSION
from ltx_a2v.miniature import TRANSFORMER as MINIATURE_TRANSFORMER
from ltx_a2v.miniature import UPSAMPLER as MINIATURE_UPSAMPLER
from ltx_a2v.miniature import VIDEO_VAE as MINIATURE_VIDEO_VAE
from ltx_a2v.versions.ltx_2_3 import LTX_2_3


def residual(layers: int) -> list[Any]:
    return ["res_x", {"num_layers": layers}]


VIDEO_VAE = MINIATURE_VIDEO_VAE | {
    "decoder_base_channels": 32,
    "encoder_blocks": [
        residual(0),
        ["compress_space_res", {"multiplier": 1}],
        residual(1),
        ["compress_time_res", {"multiplier": 1}],
        residual(0),
        ["compress_all_res", {"multiplier": 1}],
        residual(1),
        ["compress_all_res", {"multiplier": 1}],
        residual(0),
    ],
    "decoder_blocks": [  # back to front
        residual(2),
        ["compress_space", {"multiplier": 1}],
        residual(1),
        ["compress_time", {"multiplier": 1}],
        residual(1),
        ["compress_all", {"multiplier": 2}],
        residual(1),
        ["compress_all", {"multiplier": 2}],
        residual(1),
    ],
}
AUDIO_VAE = {
    **MINIATURE_AUDIO_VAE,
    "model": {
        "params": {
            **MINIATURE_AUDIO_VAE["model"]["params"],
            "ddconfig": MINIATURE_AUDIO_VAE["model"]["params"]["ddconfig"] | {"num_res_blocks": 0},
        }
    },
}
TRANSFORMER = MINIATURE_TRANSFORMER | {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "cross_attention_dim": 192,
    "audio_num_attention_heads": 6,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 96,
    "caption_channels": 64,
    "connector_num_attention_heads": 6,
    "connector_attention_head_dim": 32,
    "connector_num_layers": 1,
    "audio_connector_num_attention_heads": 6,
    "audio_connector_attention_head_dim": 16,
    "audio_connector_num_layers": 1,
}
GEMMA = MINIATURE_GEMMA | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
UPSAMPLER = MINIATURE_UPSAMPLER
SECTIONS = {"transformer": TRANSFORMER, "vae": VIDEO_VAE, "audio_vae": AUDIO_VAE}
KEYS = LTX_2_3.keys
MODEL = LTX_2_3.config_of(MODEL_VERSION, SECTIONS)
