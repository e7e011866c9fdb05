"""Everything that a version of the model decides, as one value. No torch is imported: the HTTP process uses it too.

A version is one file of this room and one line of `VERSIONS` in `versions/__init__.py`. For a version that differs
little from another, use `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.errors import InvalidModel


@dataclass(frozen=True)
class GenerationDefaults:
    """Values that the model was tuned for. Source: the reference's parameters of the same version."""

    width: int
    height: int
    frame_rate: float
    num_inference_steps: int
    cfg: float
    stg: float
    stg_block: float
    """Depth of the perturbed block as a share of the transformer's depth."""
    modality: float
    rescale: float
    image_crf: int
    """H.264 quality that conditioning pictures had in training."""
    seed: int
    negative_prompt: str

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Widths and heights that follow a picture: landscape, which is also the one without a picture, portrait and
        square."""
        short = min(self.width, self.height)
        return (self.width, self.height), (self.height, self.width), (short, short)

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        """The perturbed block of a transformer with `num_layers`; none where there is only one layer."""
        return (round(self.stg_block * num_layers),) if num_layers > 1 else ()


@dataclass(frozen=True)
class Schedule:
    """The sigmas of both stages (reference: `LTX2Scheduler`, `DISTILLED_SIGMAS`, `STAGE_2_DISTILLED_SIGMAS`)."""

    shift: float
    terminal_sigma: float
    """The last sigma of stage 1 before 0."""
    distilled: tuple[float, ...]
    """All sigmas of stage 1 in quality fast, from 1 to 0: those that distilled weights were trained for."""
    stage_2: tuple[float, ...]
    """All sigmas of stage 2, from the one it starts with to 0."""

    @property
    def distilled_steps(self) -> int:
        """Steps of stage 1 in quality fast."""
        return len(self.distilled) - 1


@dataclass(frozen=True)
class LatentLayout:
    """How pictures and sound become latents."""

    spatial_factor: int
    """Pixels per latent cell, each way."""
    temporal_factor: int
    """Frames per latent frame after the first, which holds one frame."""
    channels: int
    """Of the video's latent."""
    audio_channels: int
    """Of a packed audio latent: channels x mel bins."""
    audio_per_second: int

    @property
    def size_multiple(self) -> int:
        """Stage 1 runs at half size and must still fall on the latent grid."""
        return 2 * self.spatial_factor

    def frames_of(self, latent_frames: int) -> int:
        return self.temporal_factor * (latent_frames - 1) + 1


@dataclass(frozen=True)
class Tiling:
    """Largest tile that is decoded at once and how much of it its neighbours share, in latent frames and cells
    (reference: `tiling_config_for_vae`)."""

    frames: int
    frames_overlap: int
    cells: int
    """Of the longer side; the shorter side's tile keeps the picture's shape."""
    cells_overlap: int


@dataclass(frozen=True)
class KeyMaps:
    """How the tensors of each network are called in the files and in diffusers' modules."""

    transformer: KeyMap
    lora: KeyMap
    connectors: KeyMap
    audio_encoder: KeyMap
    upsampler: KeyMap
    video_vae: Callable[[int], KeyMap]
    """By the number of times that the VAE changes its resolution."""
    unused: tuple[str, ...]
    """Beginnings of what a checkpoint holds and audio-to-video does not use; the maps above go first."""


@dataclass(frozen=True)
class CoveredLayers:
    """Which linears of one network are quantized, by their names in its module."""

    blocks: str
    """The name of the list of blocks."""
    suffixes: tuple[str, ...]
    outside: tuple[str, ...] = ()
    """Covered layers outside the blocks, by full name."""


@dataclass(frozen=True)
class Covered:
    """Covered layers of each network whose weights can be quantized."""

    transformer: CoveredLayers
    connectors: CoveredLayers
    text_encoder: CoveredLayers


@dataclass(frozen=True)
class TextEncoder:
    """The text encoder that the connectors were trained with."""

    name: str
    model_type: str
    """Beginning of `model_type` in its config.json."""
    tokens: int
    """Length of every text, padded or cut."""


@dataclass(frozen=True)
class FileNames:
    """The published files, as messages name them."""

    checkpoint: str
    distilled_lora: str
    spatial_upsampler: str
    gemma: str


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one model, as its checkpoint says it: the arguments of diffusers' classes, and other values
    that the method needs."""

    version: ModelVersion
    model_version: str
    """As the checkpoint says it, e.g. "2.3.0"."""
    num_layers: int
    widths: tuple[int, int]
    """Dimensions of the video and the audio stream."""
    caption_channels: int
    """Width of the text encoder that the connectors were made for."""
    vae_stages: int
    """How often the video VAE changes its resolution."""
    sample_rate: int
    hop_length: int
    fft_length: int
    mel_bins: int
    transformer: Mapping[str, Any] = field(repr=False)
    """For `LTX2VideoTransformer3DModel`."""
    connectors: Mapping[str, Any] = field(repr=False)
    """For `LTX2TextConnectors`, without `text_proj_in_factor`."""
    video_vae: Mapping[str, Any] = field(repr=False)
    """For `AutoencoderKLLTX2Video`."""
    audio_vae: Mapping[str, Any] = field(repr=False)
    """For `AutoencoderKLLTX2Audio`."""

    def connectors_arguments(self, hidden_states: int) -> dict[str, Any]:
        """For `LTX2TextConnectors`; `hidden_states`: how many the text encoder gives (its layers and the embedding)."""
        return {**self.connectors, "text_proj_in_factor": hidden_states}


Sections = Mapping[str, Any]
"""The checkpoint's `config`: a JSON object per network."""


@dataclass(frozen=True)
class ModelVersion:
    """Everything that a version decides."""

    name: str
    """As users know it, e.g. "LTX-2.3"."""
    model_versions: str
    """Beginning of `model_version` in the metadata of its checkpoints and of compatible ones."""
    sections: tuple[str, ...]
    """What the checkpoint's config must describe."""
    flags: tuple[str, ...]
    """What must be true in its `transformer` section: an older architecture lacks it."""
    defaults: GenerationDefaults
    schedule: Schedule
    latents: LatentLayout
    tiling: Tiling
    text_encoder: TextEncoder
    keys: KeyMaps
    covered: Covered
    files: FileNames
    read_config: Callable[[ModelVersion, str, Sections], ModelConfig]
    read_upsampler: Callable[[Mapping[str, Any]], dict[str, Any] | None]
    """The config of a latent upsampler -> arguments of `LTX2LatentUpsamplerModel`; None for another kind of file."""

    def config_of(self, model_version: str, sections: Sections) -> ModelConfig:
        """Raises whatever reading a foreign config raises; see `checkpoint.config.usable_config`."""
        return self.read_config(self, model_version, sections)

    def check(self, path: Path, model_version: str, sections: Sections) -> None:
        """Raises `InvalidModel` where the checkpoint at `path` is not of this version."""
        missing = [section for section in self.sections if not isinstance(sections.get(section), dict)]
        if missing:
            raise InvalidModel(
                f"{path} has no {' and '.join(missing)} section in its config: it is not a complete LTX-2 checkpoint; "
                f"give the file that holds transformer and VAEs, such as {self.files.checkpoint}."
            )
        if not model_version.startswith(self.model_versions):
            said = f"model_version {model_version!r}" if model_version else "no model_version"
            raise InvalidModel(f"{path} has {said} in its metadata; an {self.name} checkpoint is needed.")
        if not all(sections["transformer"].get(flag) for flag in self.flags):
            raise InvalidModel(f"{path} is LTX-{model_version}, whose architecture is older; {self.name} is needed.")
