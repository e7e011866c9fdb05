"""Architecture numbers: from the checkpoint's `config` metadata to the arguments of diffusers' classes.

What the checkpoint does not say, because every LTX-2.3 model has it, is said here once. The video VAE's causality and
padding differ from diffusers' defaults, which silently give wrong pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, json_object
from ltx_a2v.errors import A2VError, InvalidModel
from ltx_a2v.settings.defaults import DEFAULTS_SINCE_VERSION, SPATIAL_FACTOR, TEMPORAL_FACTOR, GenerationDefaults

_SAMPLING = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}
_REQUIRED_SECTIONS = ("transformer", "vae", "audio_vae")


@dataclass(frozen=True)
class ModelConfig:
    version: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    audio_vae: Mapping[str, Any]

    @classmethod
    def of(cls, file: SafetensorsFile) -> ModelConfig:
        """Raises `InvalidModel` when the file does not say what it is, or is not an LTX-2.3 model."""
        version = str(file.metadata.get("model_version", ""))
        config = read_config(file)
        missing = [section for section in _REQUIRED_SECTIONS if not isinstance(config.get(section), dict)]
        if missing:
            raise InvalidModel(
                f"{file.path} has no {' and '.join(missing)} section in its config: it is not a complete LTX-2 "
                "checkpoint; give the file that holds transformer and VAEs, such as ltx-2.3-22b-dev.safetensors."
            )
        if not version.startswith("2."):
            said = f"model_version {version!r}" if version else "no model_version"
            raise InvalidModel(f"{file.path} has {said} in its metadata; an LTX-2.3 checkpoint is needed.")
        if not config["transformer"].get("cross_attention_adaln") or not config["transformer"].get(
            "apply_gated_attention"
        ):
            raise InvalidModel(f"{file.path} is LTX-{version}, whose architecture is older; LTX-2.3 is needed.")
        found = cls(version, config["transformer"], config["vae"], config["audio_vae"])
        with usable_config(file.path):
            found.read_all()
        return found

    def read_all(self) -> None:
        """Raises what reading any of the numbers raises: a foreign config is found before it is used."""
        self.transformer_arguments()
        self.connectors_arguments(1)
        self.video_vae_arguments()
        self.audio_vae_arguments()
        _ = self.num_layers, self.widths, self.vae_stages, self.fft_length

    @property
    def defaults(self) -> GenerationDefaults:
        found = re.match(r"(\d+)\.(\d+)", self.version)
        number = (int(found[1]), int(found[2])) if found else (0, 0)
        for since, defaults in DEFAULTS_SINCE_VERSION:
            if number >= since:
                return defaults
        return DEFAULTS_SINCE_VERSION[-1][1]

    @property
    def num_layers(self) -> int:
        return int(self.transformer["num_layers"])

    @property
    def widths(self) -> tuple[int, int]:
        """Dimensions of the video and the audio stream."""
        t = self.transformer
        return (
            t["num_attention_heads"] * t["attention_head_dim"],
            t["audio_num_attention_heads"] * t["audio_attention_head_dim"],
        )

    @property
    def caption_channels(self) -> int:
        """Width of the text encoder that the connectors were made for."""
        return int(self.transformer.get("caption_channels", 3840))

    @property
    def vae_stages(self) -> int:
        return len(_changes(self.vae["encoder_blocks"], default_multiplier=2))

    @property
    def sample_rate(self) -> int:
        return int(self.audio_vae["model"]["params"].get("sampling_rate", 16000))

    @property
    def hop_length(self) -> int:
        return int(self.audio_vae["preprocessing"]["stft"]["hop_length"])

    @property
    def fft_length(self) -> int:
        return int(self.audio_vae["preprocessing"]["stft"]["filter_length"])

    @property
    def mel_bins(self) -> int:
        return int(self.audio_vae["preprocessing"]["mel"]["n_mel_channels"])

    def transformer_arguments(self) -> dict[str, Any]:
        """For `LTX2VideoTransformer3DModel`."""
        t = self.transformer
        return {
            "in_channels": t.get("in_channels", 128),
            "out_channels": t.get("out_channels", 128),
            "num_attention_heads": t["num_attention_heads"],
            "attention_head_dim": t["attention_head_dim"],
            "cross_attention_dim": t["cross_attention_dim"],
            "audio_in_channels": t.get("audio_in_channels", 128),
            "audio_out_channels": t.get("audio_out_channels", 128),
            "audio_num_attention_heads": t["audio_num_attention_heads"],
            "audio_attention_head_dim": t["audio_attention_head_dim"],
            "audio_cross_attention_dim": t["audio_cross_attention_dim"],
            "num_layers": t["num_layers"],
            "norm_eps": t.get("norm_eps", 1e-6),
            "norm_elementwise_affine": False,
            "caption_channels": self.caption_channels,
            "rope_type": t.get("rope_type", "split"),
            "rope_theta": t.get("positional_embedding_theta", 10000.0),
            "rope_double_precision": t.get("frequencies_precision") == "float64",
            "pos_embed_max_pos": t.get("positional_embedding_max_pos", [20, 2048, 2048])[0],
            "base_height": t.get("positional_embedding_max_pos", [20, 2048, 2048])[1],
            "base_width": t.get("positional_embedding_max_pos", [20, 2048, 2048])[2],
            "audio_pos_embed_max_pos": t.get("audio_positional_embedding_max_pos", [20])[0],
            "audio_sampling_rate": self.sample_rate,
            "audio_hop_length": self.hop_length,
            "vae_scale_factors": (TEMPORAL_FACTOR, SPATIAL_FACTOR, SPATIAL_FACTOR),
            "timestep_scale_multiplier": t.get("timestep_scale_multiplier", 1000),
            "cross_attn_timestep_scale_multiplier": t.get("av_ca_timestep_scale_multiplier", 1000),
            "gated_attn": True,
            "audio_gated_attn": True,
            "cross_attn_mod": True,
            "audio_cross_attn_mod": True,
            "perturbed_attn": True,
            "use_prompt_embeddings": False,
        }

    def connectors_arguments(self, hidden_states: int) -> dict[str, Any]:
        """For `LTX2TextConnectors`; `hidden_states` is how many Gemma gives (its layers and the embedding)."""
        t = self.transformer
        registers = t.get("connector_num_learnable_registers", 128)
        gated = t.get("connector_apply_gated_attention", True)
        return {
            "caption_channels": self.caption_channels,
            "text_proj_in_factor": hidden_states,
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
            "video_hidden_dim": self.widths[0],
            "audio_hidden_dim": self.widths[1],
        }

    def video_vae_arguments(self) -> dict[str, Any]:
        """For `AutoencoderKLLTX2Video`. The checkpoint lists the decoder's blocks back to front."""
        encoder, decoder = self.vae["encoder_blocks"], self.vae["decoder_blocks"][::-1]
        latent = self.vae.get("latent_channels", 128)
        down, up = _changes(encoder, default_multiplier=2), _changes(decoder, default_multiplier=1)
        widths_down = [latent * math.prod(c.multiplier for c in down[: i + 1]) for i in range(len(down))]
        widths_up = [
            self.vae["decoder_base_channels"] * math.prod(c.multiplier for c in up[i:]) for i in range(len(up))
        ]
        padding = self.vae.get("spatial_padding_mode", "zeros")
        return {
            "in_channels": self.vae.get("in_channels", 3),
            "out_channels": self.vae.get("out_channels", 3),
            "latent_channels": latent,
            "patch_size": self.vae.get("patch_size", 4),
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
            "timestep_conditioning": self.vae.get("timestep_conditioning", False),
            "encoder_causal": True,
            "decoder_causal": self.vae.get("causal_decoder", False),
            "encoder_spatial_padding_mode": padding,
            "decoder_spatial_padding_mode": padding,
        }

    def audio_vae_arguments(self) -> dict[str, Any]:
        """For `AutoencoderKLLTX2Audio`."""
        d = self.audio_vae["model"]["params"]["ddconfig"]
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
            "sample_rate": self.sample_rate,
            "mel_hop_length": self.hop_length,
            "is_causal": self.audio_vae["preprocessing"]["stft"].get("causal", True),
            "mel_bins": self.mel_bins,
            "double_z": d.get("double_z", True),
        }


def upsampler_arguments(file: SafetensorsFile) -> dict[str, Any]:
    """For `LTX2LatentUpsamplerModel`. Raises `InvalidModel` when the file is not a spatial x2 upsampler."""
    config = read_config(file)
    scale = config.get("spatial_scale", 2.0 if config.get("spatial_upsample") else None)
    if not config.get("spatial_upsample") or config.get("temporal_upsample") or scale != 2.0:
        raise InvalidModel(
            f"{file.path} is not a spatial x2 latent upsampler; give ltx-2.3-spatial-upscaler-x2-1.1.safetensors."
        )
    return {
        "in_channels": config.get("in_channels", 128),
        "mid_channels": config.get("mid_channels", 512),
        "num_blocks_per_stage": config.get("num_blocks_per_stage", 4),
        "dims": config.get("dims", 3),
        "spatial_upsample": True,
        "temporal_upsample": False,
        "rational_spatial_scale": scale,
        "use_rational_resampler": bool(config.get("rational_resampler", False)),
    }


def read_config(file: SafetensorsFile) -> dict[str, Any]:
    raw = file.metadata.get("config")
    if raw is None:
        raise InvalidModel(
            f"{file.path} has no 'config' in its metadata, so its architecture is unknown; use an original file."
        )
    config = json_object(raw)
    if config is None:
        raise InvalidModel(f"{file.path} has a damaged 'config' in its metadata: it is not a JSON object.")
    return config


@contextmanager
def usable_config(path: Path) -> Iterator[None]:
    """Whatever a foreign config makes its reading, or the modules built from it, raise becomes `InvalidModel`."""
    try:
        yield
    except A2VError:
        raise
    except Exception as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InvalidModel(f"{path} has a config that no LTX-2.3 model has ({what}); use an original file.") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


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
