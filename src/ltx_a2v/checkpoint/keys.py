"""The names of tensors: original checkpoint <-> diffusers modules.

Every map is one-to-one, so that the same table reads the original files and writes them. A name is renamed first at
its beginning (`prefixes`), then segment by segment (`segments`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyMap:
    """How one network's tensors are called in the file (left) and in its diffusers module (right)."""

    prefixes: tuple[tuple[str, str], ...]
    segments: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    """Beginnings that look like ours but belong to another network."""

    def to_module(self, name: str) -> str | None:
        """The module's name for a tensor of the file, or None when the tensor is not this network's."""
        if name.startswith(self.excludes):
            return None
        return _rename(name, self.prefixes, self.segments)

    def to_file(self, name: str) -> str:
        back = tuple((ours, original) for original, ours in self.prefixes)
        renamed = _rename(name, back, {ours: original for original, ours in self.segments.items()})
        if renamed is None:
            raise KeyError(name)
        return renamed


def _rename(name: str, prefixes: Iterable[tuple[str, str]], segments: Mapping[str, str]) -> str | None:
    for old, new in sorted(prefixes, key=lambda pair: -len(pair[0])):
        if name.startswith(old):
            rest = ".".join(segments.get(segment, segment) for segment in name[len(old) :].split("."))
            return new + rest
    return None


_ATTENTION_NORMS = {"q_norm": "norm_q", "k_norm": "norm_k"}
_STATISTICS = (("mean-of-means", "latents_mean"), ("std-of-means", "latents_std"))

TRANSFORMER_SEGMENTS = {
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

TRANSFORMER = KeyMap(
    prefixes=(("model.diffusion_model.", ""),),
    segments=TRANSFORMER_SEGMENTS,
    excludes=tuple(original for original, _ in _CONNECTOR_PREFIXES),
)
LORA = KeyMap(prefixes=(("diffusion_model.", ""),), segments=TRANSFORMER_SEGMENTS)
CONNECTORS = KeyMap(
    prefixes=(
        *_CONNECTOR_PREFIXES,
        ("text_embedding_projection.video_aggregate_embed.", "video_text_proj_in."),
        ("text_embedding_projection.audio_aggregate_embed.", "audio_text_proj_in."),
    ),
    segments={**_ATTENTION_NORMS, "transformer_1d_blocks": "transformer_blocks"},
)
AUDIO_ENCODER = KeyMap(
    prefixes=(
        ("audio_vae.encoder.", "encoder."),
        *((f"audio_vae.per_channel_statistics.{old}", new) for old, new in _STATISTICS),
    )
)
UPSAMPLER = KeyMap(prefixes=(("", ""),))


def video_vae(stages: int) -> KeyMap:
    """The video VAE has `stages` changes of resolution between `stages + 1` groups of residual blocks, numbered
    through in the file and paired up in diffusers (reference.md: down_blocks.{0,2,..} and {1,3,..})."""
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


UNUSED = (
    "audio_vae.decoder.",
    "audio_vae.per_channel_statistics.",
    "vae.per_channel_statistics.",
    "vocoder.",
)
"""Parts of a checkpoint that audio-to-video does not use; whatever the maps above take from them goes first."""
