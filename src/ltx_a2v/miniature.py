"""An LTX-2.3 of toy size with random weights, in the original file layout: for tests in which only shapes matter.

It runs exactly the code of the 22B model, in seconds on a laptop; its pictures are texture. It is not what ships and
what `ltx-a2v demo` uses: that is the trained one in `puppet/`. Its weights are uniform random numbers from numpy's
`RandomState`, whose stream never changes, so that every machine makes the same files, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.made_once import made_once
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.networks.build import shapes_of
from ltx_a2v.versions.ltx_2_3 import LTX_2_3

VERSION = "2.3-miniature.1"
"""Of these files."""
MODEL_VERSION = "2.3.0"
"""What they say of themselves."""
SEED = 23
LORA_RANK = 8

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "in_channels": 128,
    "out_channels": 128,
    "num_layers": 4,
    "cross_attention_dim": 128,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 32,
    "audio_in_channels": 128,
    "audio_out_channels": 128,
    "audio_cross_attention_dim": 64,
    "norm_eps": 1e-6,
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20],
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "caption_channels": 64,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 64,
    "connector_num_layers": 2,
    "connector_positional_embedding_max_pos": [4096],
    "connector_apply_gated_attention": True,
    "connector_num_learnable_registers": 128,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 32,
    "audio_connector_num_layers": 2,
    # what every LTX-2.3 checkpoint says and the reference checks
    "use_middle_indices_grid": True,
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
}
REAL_TRANSFORMER = TRANSFORMER | {
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "num_layers": 48,
    "cross_attention_dim": 4096,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 2048,
    "caption_channels": 3840,
    "connector_num_attention_heads": 32,
    "connector_attention_head_dim": 128,
    "connector_num_layers": 8,
    "audio_connector_num_attention_heads": 32,
    "audio_connector_attention_head_dim": 64,
    "audio_connector_num_layers": 8,
}
"""The 22B model's shapes, for counting and for measuring with random weights. The connectors' depth is not published:
eight layers give their reported 3.2 billion parameters."""
_RESIDUAL: list[Any] = ["res_x", {"num_layers": 1}]
VIDEO_VAE = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "patch_size": 4,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "spatial_padding_mode": "zeros",
    "decoder_base_channels": 8,
    "encoder_blocks": [
        _RESIDUAL,
        ["compress_space_res", {"multiplier": 1}],
        _RESIDUAL,
        ["compress_time_res", {"multiplier": 1}],
        _RESIDUAL,
        ["compress_all_res", {"multiplier": 1}],
        _RESIDUAL,
        ["compress_all_res", {"multiplier": 1}],
        _RESIDUAL,
    ],
    "decoder_blocks": [
        _RESIDUAL,
        ["compress_space", {"multiplier": 2}],
        _RESIDUAL,
        ["compress_time", {"multiplier": 2}],
        _RESIDUAL,
        ["compress_all", {"multiplier": 1}],
        _RESIDUAL,
        ["compress_all", {"multiplier": 2}],
        _RESIDUAL,
    ],
}
AUDIO_VAE = {
    "model": {
        "params": {
            "sampling_rate": 16000,
            "ddconfig": {
                "double_z": True,
                "mel_bins": 64,
                "z_channels": 8,
                "resolution": 256,
                "in_channels": 2,
                "out_ch": 2,
                "ch": 128,
                "ch_mult": [1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "dropout": 0.0,
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
            },
        }
    },
    "preprocessing": {
        "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
        "mel": {"n_mel_channels": 64},
    },
}
UPSAMPLER = {
    "in_channels": 128,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
    "rational_resampler": False,
}
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 512,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "vocab_size": 320,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
}
SPECIAL_TOKENS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}


def ensure_miniature(folder: Path) -> ModelPaths:
    """The miniature model in `folder / VERSION`, made where it is not there yet."""
    return ModelPaths.discover(made_once(folder / VERSION, "miniature", make_miniature))


def make_miniature(folder: Path) -> None:
    """Write the four files of a model; about 25 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(SEED)
    sections = {"transformer": TRANSFORMER, "vae": VIDEO_VAE, "audio_vae": AUDIO_VAE}
    config, keys = LTX_2_3.config_of(MODEL_VERSION, sections), LTX_2_3.keys
    _write_gemma(folder / "gemma-miniature", random)
    gemma = GemmaFiles(folder, GEMMA, {})
    denoiser = transformer.build_transformer(config)
    vae = keys.video_vae(config.vae_stages)
    tensors: dict[str, Tensor] = {}
    for key_map, module in (
        (keys.transformer, denoiser),
        (keys.connectors, text.build_connectors(config, text.hidden_state_count(gemma))),
        (vae, video_vae.build_video_encoder(config)),
        (vae, video_vae.build_video_decoder(config)),
        (keys.audio_encoder, audio_vae.build_audio_encoder(config)),
    ):
        tensors.update(_random_tensors(random, shapes_of(module), key_map))
    metadata = {"model_version": MODEL_VERSION, "config": json.dumps(sections)}
    _write_tensors(folder / "ltx-2.3-miniature.safetensors", tensors, metadata)
    _write_tensors(
        folder / "ltx-2.3-miniature-distilled-lora.safetensors",
        _lora_tensors(random, transformer.linear_shapes(denoiser)),
    )
    _write_tensors(
        folder / "ltx-2.3-miniature-spatial-upscaler-x2.safetensors",
        _random_tensors(random, shapes_of(upsampler.build_upsampler(upsampler_arguments(UPSAMPLER))), keys.upsampler),
        {"config": json.dumps(UPSAMPLER)},
    )


def upsampler_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the module that an upsampler's config describes."""
    names = ("in_channels", "mid_channels", "num_blocks_per_stage", "dims", "spatial_upsample", "temporal_upsample")
    return {**{name: config[name] for name in names}, "use_rational_resampler": False}


def _random_tensors(
    random: np.random.RandomState, shapes: Mapping[str, tuple[int, ...]], key_map: KeyMap
) -> dict[str, Tensor]:
    return {key_map.to_file(name): _random_tensor(random, name, shape) for name, shape in sorted(shapes.items())}


_PIXELS_PER_CHANNEL = {
    "decoder.conv_out": 16,
    "decoder.up_blocks.0.upsamplers": 8,
    "decoder.up_blocks.1.upsamplers": 8,
    "decoder.up_blocks.2.upsamplers": 2,
    "decoder.up_blocks.3.upsamplers": 4,
}
"""How many neighbouring places in time and space each decoder layer makes of one, by `VIDEO_VAE`'s blocks."""


def _random_tensor(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> Tensor:
    """Spread as a trained layer's would be: outputs neither vanish nor explode, and nothing is exactly at rest.

    Neighbouring pixels are mostly alike, so that the decoder paints coarse texture and not noise, which no video codec
    can carry.
    """
    places = next((n for layer, n in _PIXELS_PER_CHANNEL.items() if name.startswith(layer)), 1)
    if places == 1:
        return _spread(random, name, shape).to(torch.bfloat16)
    alike = _spread(random, name, (shape[0] // places, *shape[1:])).repeat_interleave(places, dim=0)
    return (0.9 * alike + 0.1 * _spread(random, name, shape)).to(torch.bfloat16)


def _spread(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "latents_std":
        return _uniform(random, shape, 0.1) + 1
    if leaf in ("bias", "latents_mean"):
        return _uniform(random, shape, 0.02)
    if leaf == "weight" and len(shape) == 1:
        return _uniform(random, shape, 0.1) + 1
    if "scale_shift_table" in leaf or leaf == "learnable_registers":
        return _uniform(random, shape, 0.3)
    return _uniform(random, shape, 1 / math.sqrt(math.prod(shape[1:])))


def _uniform(random: np.random.RandomState, shape: tuple[int, ...], deviation: float) -> Tensor:
    values = (random.random_sample(shape) * 2 - 1) * (deviation * math.sqrt(3))
    return torch.from_numpy(values)


def _lora_tensors(random: np.random.RandomState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    tensors = {}
    for layer, (outputs, inputs) in sorted(shapes.items()):
        if "transformer_blocks" in layer and "to_gate_logits" not in layer:
            name = LTX_2_3.keys.lora.to_file(layer)
            down = _uniform(random, (LORA_RANK, inputs), 1 / math.sqrt(inputs))
            up = _uniform(random, (outputs, LORA_RANK), 0.1)
            tensors[f"{name}.lora_A.weight"] = down.to(torch.bfloat16)
            tensors[f"{name}.lora_B.weight"] = up.to(torch.bfloat16)
    return tensors


def _write_gemma(folder: Path, random: np.random.RandomState) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = text.build_gemma(GemmaFiles(folder, GEMMA, {}))
    prefixed = KeyMap(prefixes=(("language_model.model.", ""),))
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": GEMMA}
    _write_tensors(folder / "model.safetensors", _random_tensors(random, shapes_of(model), prefixed), {"format": "pt"})
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
    )


def _byte_tokenizer() -> Tokenizer:
    """One token per byte, <bos> in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**SPECIAL_TOKENS, **{char: len(SPECIAL_TOKENS) + i for i, char in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL_TOKENS["<bos>"])]
    )
    return tokenizer


def _write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """`save_file` makes files that only the user can read, whatever the umask is."""
    path.write_bytes(save(tensors, metadata))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
