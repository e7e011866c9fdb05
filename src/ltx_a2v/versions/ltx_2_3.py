"""LTX-2.3: everything that this version of the model decides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx_a2v.checkpoint.keys import AS_IN_FILE, KeyMap
from ltx_a2v.versions.version import (
    Covered,
    CoveredLayers,
    FileNames,
    GenerationDefaults,
    KeyMaps,
    LatentLayout,
    ModelConfig,
    ModelVersion,
    Schedule,
    Sections,
    TextEncoder,
    Tiling,
)

_SPATIAL_FACTOR = 32  # patches of 4, three halvings
_TEMPORAL_FACTOR = 8
_CHANNELS = 128

_NEGATIVE_PROMPT = (
    "low quality, blurry picture, soft focus, over- or underexposed, washed-out or oversaturated colours, film grain, "
    "compression artifacts, banding, flicker, jitter, shaky camera, jump cuts, subtitles, captions, watermark, logo, "
    "fade from black, deformed face, asymmetrical eyes, missing or extra teeth, malformed hands, extra fingers, "
    "unnatural skin, plastic look, 3D render, cartoon, frozen expression, exaggerated grimace, gaze wandering off, "
    "mouth out of sync with the speech, mouth moving during silence, stiff head, abrupt motion, cluttered background"
)

# The names of tensors: original checkpoint <-> diffusers' modules.

_ATTENTION_NORMS = {"q_norm": "norm_q", "k_norm": "norm_k"}
_STATISTICS = (("mean-of-means", "latents_mean"), ("std-of-means", "latents_std"))

_TRANSFORMER_SEGMENTS = {
    **_ATTENTION_NORMS,
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
}

_CONNECTOR_PREFIXES = tuple(
    (f"model.diffusion_model.{modality}_embeddings_connector.", f"{modality}_connector.")
    for modality in ("video", "audio")
)


def _video_vae_keys(stages: int) -> KeyMap:
    """The video VAE has `stages` changes of resolution between `stages + 1` groups of residual blocks, numbered
    through in the file and paired up in diffusers."""
    down, up = "vae.encoder.down_blocks.", "vae.decoder.up_blocks."
    pairs = [
        (f"{down}{2 * stages}.", "encoder.mid_block."),
        (f"{up}0.", "decoder.mid_block."),
    ]
    for i in range(stages):
        pairs += [
            (f"{down}{2 * i}.", f"encoder.down_blocks.{i}."),
            (f"{down}{2 * i + 1}.", f"encoder.down_blocks.{i}.downsamplers.0."),
            (f"{up}{2 * i + 1}.", f"decoder.up_blocks.{i}.upsamplers.0."),
            (f"{up}{2 * i + 2}.", f"decoder.up_blocks.{i}."),
        ]
    for side in ("encoder", "decoder"):
        pairs += [(f"vae.{side}.{conv}.", f"{side}.{conv}.") for conv in ("conv_in", "conv_out")]
    statistics = [(f"vae.per_channel_statistics.{old}", new) for old, new in _STATISTICS]
    return KeyMap(prefixes=(*pairs, *statistics), segments={"res_blocks": "resnets"})


# The checkpoint's config -> arguments of diffusers' classes. What it does not say, because every model of this version
# has it, is said here. The video VAE's causality and padding differ from diffusers' defaults, which silently give wrong
# pictures.


def _read_config(version: ModelVersion, model_version: str, sections: Sections) -> ModelConfig:
    t, vae, audio_vae = (sections[name] for name in ("transformer", "vae", "audio_vae"))
    stft = audio_vae["preprocessing"]["stft"]
    return ModelConfig(
        version=version,
        model_version=model_version,
        num_layers=int(t["num_layers"]),
        widths=_widths(t),
        caption_channels=_caption_channels(t),
        vae_stages=len(_changes(vae["encoder_blocks"], default_multiplier=2)),
        sample_rate=_sample_rate(audio_vae),
        hop_length=int(stft["hop_length"]),
        fft_length=int(stft["filter_length"]),
        mel_bins=int(audio_vae["preprocessing"]["mel"]["n_mel_channels"]),
        transformer=_transformer_arguments(t, audio_vae),
        connectors=_connectors_arguments(t),
        video_vae=_video_vae_arguments(vae),
        audio_vae=_audio_vae_arguments(audio_vae),
    )


def _widths(t: Mapping[str, Any]) -> tuple[int, int]:
    return (
        t["num_attention_heads"] * t["attention_head_dim"],
        t["audio_num_attention_heads"] * t["audio_attention_head_dim"],
    )


def _caption_channels(t: Mapping[str, Any]) -> int:
    return int(t.get("caption_channels", 3840))


def _sample_rate(audio_vae: Mapping[str, Any]) -> int:
    return int(audio_vae["model"]["params"].get("sampling_rate", 16000))


def _transformer_arguments(t: Mapping[str, Any], audio_vae: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "in_channels": t.get("in_channels", _CHANNELS),
        "out_channels": t.get("out_channels", _CHANNELS),
        "num_attention_heads": t["num_attention_heads"],
        "attention_head_dim": t["attention_head_dim"],
        "cross_attention_dim": t["cross_attention_dim"],
        "audio_in_channels": t.get("audio_in_channels", _CHANNELS),
        "audio_out_channels": t.get("audio_out_channels", _CHANNELS),
        "audio_num_attention_heads": t["audio_num_attention_heads"],
        "audio_attention_head_dim": t["audio_attention_head_dim"],
        "audio_cross_attention_dim": t["audio_cross_attention_dim"],
        "num_layers": t["num_layers"],
        "norm_eps": t.get("norm_eps", 1e-6),
        "norm_elementwise_affine": False,
        "caption_channels": _caption_channels(t),
        "rope_type": t.get("rope_type", "split"),
        "rope_theta": t.get("positional_embedding_theta", 10000.0),
        "rope_double_precision": t.get("frequencies_precision") == "float64",
        "pos_embed_max_pos": t.get("positional_embedding_max_pos", [20, 2048, 2048])[0],
        "base_height": t.get("positional_embedding_max_pos", [20, 2048, 2048])[1],
        "base_width": t.get("positional_embedding_max_pos", [20, 2048, 2048])[2],
        "audio_pos_embed_max_pos": t.get("audio_positional_embedding_max_pos", [20])[0],
        "audio_sampling_rate": _sample_rate(audio_vae),
        "audio_hop_length": int(audio_vae["preprocessing"]["stft"]["hop_length"]),
        "vae_scale_factors": (_TEMPORAL_FACTOR, _SPATIAL_FACTOR, _SPATIAL_FACTOR),
        "timestep_scale_multiplier": t.get("timestep_scale_multiplier", 1000),
        "cross_attn_timestep_scale_multiplier": t.get("av_ca_timestep_scale_multiplier", 1000),
        "gated_attn": True,
        "audio_gated_attn": True,
        "cross_attn_mod": True,
        "audio_cross_attn_mod": True,
        "perturbed_attn": True,
        "use_prompt_embeddings": False,
    }


def _connectors_arguments(t: Mapping[str, Any]) -> dict[str, Any]:
    registers = t.get("connector_num_learnable_registers", 128)
    gated = t.get("connector_apply_gated_attention", True)
    return {
        "caption_channels": _caption_channels(t),
        "video_connector_num_attention_heads": t["connector_num_attention_heads"],
        "video_connector_attention_head_dim": t["connector_attention_head_dim"],
        "video_connector_num_layers": t["connector_num_layers"],
        "video_connector_num_learnable_registers": registers,
        "video_gated_attn": gated,
        "audio_connector_num_attention_heads": t["audio_connector_num_attention_heads"],
        "audio_connector_attention_head_dim": t["audio_connector_attention_head_dim"],
        "audio_connector_num_layers": t["audio_connector_num_layers"],
        "audio_connector_num_learnable_registers": registers,
        "audio_gated_attn": gated,
        "connector_rope_base_seq_len": t.get("connector_positional_embedding_max_pos", [4096])[0],
        "rope_theta": t.get("positional_embedding_theta", 10000.0),
        "rope_double_precision": t.get("frequencies_precision") == "float64",
        "rope_type": t.get("rope_type", "split"),
        "per_modality_projections": True,
        "proj_bias": True,
        "video_hidden_dim": _widths(t)[0],
        "audio_hidden_dim": _widths(t)[1],
    }


def _video_vae_arguments(vae: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint lists the decoder's blocks back to front."""
    encoder, decoder = vae["encoder_blocks"], vae["decoder_blocks"][::-1]
    latent = vae.get("latent_channels", _CHANNELS)
    down, up = _changes(encoder, default_multiplier=2), _changes(decoder, default_multiplier=1)
    widths_down = [latent * math.prod(c.multiplier for c in down[: i + 1]) for i in range(len(down))]
    widths_up = [vae["decoder_base_channels"] * math.prod(c.multiplier for c in up[i:]) for i in range(len(up))]
    padding = vae.get("spatial_padding_mode", "zeros")
    return {
        "in_channels": vae.get("in_channels", 3),
        "out_channels": vae.get("out_channels", 3),
        "latent_channels": latent,
        "patch_size": vae.get("patch_size", 4),
        "block_out_channels": tuple(widths_down),
        "down_block_types": ("LTX2VideoDownBlock3D",) * len(down),
        "spatio_temporal_scaling": (True,) * len(down),
        "layers_per_block": _depths(encoder),
        "downsample_type": tuple(c.sampling for c in down),
        # diffusers reverses these itself, but not `upsample_type`
        "decoder_block_out_channels": tuple(widths_up[::-1]),
        "decoder_layers_per_block": _depths(decoder)[::-1],
        "decoder_spatio_temporal_scaling": (True,) * len(up),
        "decoder_inject_noise": (False,) * (len(up) + 1),
        "upsample_residual": tuple(c.residual for c in up)[::-1],
        "upsample_factor": tuple(c.multiplier for c in up)[::-1],
        "upsample_type": tuple(c.sampling for c in up),
        "timestep_conditioning": vae.get("timestep_conditioning", False),
        "encoder_causal": True,
        "decoder_causal": vae.get("causal_decoder", False),
        "encoder_spatial_padding_mode": padding,
        "decoder_spatial_padding_mode": padding,
    }


def _audio_vae_arguments(audio_vae: Mapping[str, Any]) -> dict[str, Any]:
    d = audio_vae["model"]["params"]["ddconfig"]
    return {
        "base_channels": d["ch"],
        "output_channels": d["out_ch"],
        "ch_mult": tuple(d["ch_mult"]),
        "num_res_blocks": d["num_res_blocks"],
        "attn_resolutions": tuple(d.get("attn_resolutions") or ()),
        "in_channels": d["in_channels"],
        "resolution": d["resolution"],
        "latent_channels": d["z_channels"],
        "norm_type": d.get("norm_type", "pixel"),
        "causality_axis": d.get("causality_axis", "height"),
        "dropout": d.get("dropout", 0.0),
        "mid_block_add_attention": d.get("mid_block_add_attention", True),
        "sample_rate": _sample_rate(audio_vae),
        "mel_hop_length": int(audio_vae["preprocessing"]["stft"]["hop_length"]),
        "is_causal": audio_vae["preprocessing"]["stft"].get("causal", True),
        "mel_bins": int(audio_vae["preprocessing"]["mel"]["n_mel_channels"]),
        "double_z": d.get("double_z", True),
    }


def _read_upsampler(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Only a spatial x2 upsampler fits between the stages."""
    scale = config.get("spatial_scale", 2.0 if config.get("spatial_upsample") else None)
    if not config.get("spatial_upsample") or config.get("temporal_upsample") or scale != 2.0:
        return None
    return {
        "in_channels": config.get("in_channels", _CHANNELS),
        "mid_channels": config.get("mid_channels", 512),
        "num_blocks_per_stage": config.get("num_blocks_per_stage", 4),
        "dims": config.get("dims", 3),
        "spatial_upsample": True,
        "temporal_upsample": False,
        "rational_spatial_scale": scale,
        "use_rational_resampler": bool(config.get("rational_resampler", False)),
    }


_SAMPLING = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}


@dataclass(frozen=True)
class _Change:
    """One change of resolution in the VAE, e.g. `["compress_space_res", {"multiplier": 2}]`."""

    sampling: str
    multiplier: int
    residual: bool


def _changes(blocks: list[list[Any]], default_multiplier: int) -> list[_Change]:
    changes = []
    for name, options in blocks:
        found = re.fullmatch(r"compress_(space|time|all)(_res)?", name)
        if found:
            multiplier = int(options.get("multiplier", default_multiplier))
            changes.append(_Change(_SAMPLING[found[1]], multiplier, bool(options.get("residual", False))))
    return changes


def _depths(blocks: list[list[Any]]) -> tuple[int, ...]:
    return tuple(int(options["num_layers"]) for name, options in blocks if name == "res_x")


# The large linears inside the blocks are quantized, as in the reference. Everything a small error would steer the whole
# network through (gates, AdaLN, norms, projections in and out) keeps its dtype.
_ATTENTION_AND_FEED_FORWARD = (
    ".to_q",
    ".to_k",
    ".to_v",
    ".to_out.0",
    "ff.net.0.proj",  # no leading dot: audio_ff too
    "ff.net.2",
)

LTX_2_3 = ModelVersion(
    name="LTX-2.3",
    model_versions="2.",
    sections=("transformer", "vae", "audio_vae"),
    flags=("cross_attention_adaln", "apply_gated_attention"),
    defaults=GenerationDefaults(
        width=768,
        height=512,
        frame_rate=24.0,
        num_inference_steps=30,
        cfg=3.0,
        stg=1.0,
        stg_block=28 / 48,
        modality=3.0,
        rescale=0.7,
        image_crf=33,
        seed=42,
        negative_prompt=_NEGATIVE_PROMPT,
    ),
    schedule=Schedule(
        shift=2.05,  # that of 4096 tokens, which the reference uses for every size
        terminal_sigma=0.1,
        distilled=(1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0),
        stage_2=(0.909375, 0.725, 0.421875, 0.0),
    ),
    latents=LatentLayout(
        spatial_factor=_SPATIAL_FACTOR,
        temporal_factor=_TEMPORAL_FACTOR,
        channels=_CHANNELS,
        audio_channels=_CHANNELS,
        audio_per_second=25,
    ),
    tiling=Tiling(frames=10, frames_overlap=3, cells=24, cells_overlap=2),
    text_encoder=TextEncoder(name="Gemma 3 12B", model_type="gemma3", tokens=1024),
    keys=KeyMaps(
        transformer=KeyMap(
            prefixes=(("model.diffusion_model.", ""),),
            segments=_TRANSFORMER_SEGMENTS,
            excludes=tuple(original for original, _ in _CONNECTOR_PREFIXES),
        ),
        lora=KeyMap(prefixes=(("diffusion_model.", ""),), segments=_TRANSFORMER_SEGMENTS),
        connectors=KeyMap(
            prefixes=(
                *_CONNECTOR_PREFIXES,
                ("text_embedding_projection.video_aggregate_embed.", "video_text_proj_in."),
                ("text_embedding_projection.audio_aggregate_embed.", "audio_text_proj_in."),
            ),
            segments={**_ATTENTION_NORMS, "transformer_1d_blocks": "transformer_blocks"},
        ),
        audio_encoder=KeyMap(
            prefixes=(
                ("audio_vae.encoder.", "encoder."),
                *((f"audio_vae.per_channel_statistics.{old}", new) for old, new in _STATISTICS),
            )
        ),
        upsampler=AS_IN_FILE,
        video_vae=_video_vae_keys,
        unused=(
            "audio_vae.decoder.",
            "audio_vae.per_channel_statistics.",
            "vae.per_channel_statistics.",
            "vocoder.",
        ),
    ),
    covered=Covered(
        transformer=CoveredLayers("transformer_blocks", _ATTENTION_AND_FEED_FORWARD),
        connectors=CoveredLayers(
            "transformer_blocks", _ATTENTION_AND_FEED_FORWARD, outside=("video_text_proj_in", "audio_text_proj_in")
        ),
        text_encoder=CoveredLayers(
            "layers", (".q_proj", ".k_proj", ".v_proj", ".o_proj", ".gate_proj", ".up_proj", ".down_proj")
        ),
    ),
    files=FileNames(
        checkpoint="ltx-2.3-22b-dev.safetensors",
        distilled_lora="ltx-2.3-22b-distilled-lora-384-1.1.safetensors",
        spatial_upsampler="ltx-2.3-spatial-upscaler-x2-1.1.safetensors",
        gemma="gemma-3-12b-it-qat-q4_0-unquantized",
    ),
    read_config=_read_config,
    read_upsampler=_read_upsampler,
)
