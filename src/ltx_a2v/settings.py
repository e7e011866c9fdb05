"""Every default, once.

`GenerationDefaults` are a property of the model's generation and are chosen by the checkpoint's `model_version`;
`Settings` come from the environment (prefix `LTX_A2V_`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

SPATIAL_FACTOR = 32
"""Pixels per latent cell, each way (the video VAE: patches of 4, three halvings)."""
TEMPORAL_FACTOR = 8
"""Frames per latent frame after the first, which holds one frame."""
SIZE_MULTIPLE = 2 * SPATIAL_FACTOR
"""Stage 1 runs at half size and must still fall on the latent grid."""

MAX_SIZE = 4096
MAX_FRAMES = 1025
MAX_AUTO_FRAMES = 257
MAX_STEPS = 1000
MAX_IMAGE_PIXELS = 100_000_000
"""Of a conditioning picture: 1.2 GB while it is resized in float32."""
MAX_IMAGE_ASPECT = 32
"""Long side over short side: a hair-thin picture would have to be blown up without bound to cover the frame."""

NEGATIVE_PROMPT = (
    "low quality, blurry picture, soft focus, over- or underexposed, washed-out or oversaturated colours, film grain, "
    "compression artifacts, banding, flicker, jitter, shaky camera, jump cuts, subtitles, captions, watermark, logo, "
    "fade from black, deformed face, asymmetrical eyes, missing or extra teeth, malformed hands, extra fingers, "
    "unnatural skin, plastic look, 3D render, cartoon, frozen expression, exaggerated grimace, gaze wandering off, "
    "mouth out of sync with the speech, mouth moving during silence, stiff head, abrupt motion, cluttered background"
)


@dataclass(frozen=True)
class GenerationDefaults:
    """Values that the model was tuned for. Source: the reference's parameters of the same model version."""

    width: int = 768
    height: int = 512
    frame_rate: float = 24.0
    num_inference_steps: int = 30
    cfg: float = 3.0
    stg: float = 1.0
    stg_block: float = 28 / 48
    """Depth of the perturbed block as a share of the transformer's depth: block 28 of 48."""
    modality: float = 3.0
    rescale: float = 0.7
    image_crf: int = 33
    """H.264 quality that conditioning pictures had in training."""
    seed: int = 42
    negative_prompt: str = NEGATIVE_PROMPT

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        return (round(self.stg_block * num_layers),) if num_layers > 1 else ()


LTX_2_3 = GenerationDefaults()
DEFAULTS_SINCE_VERSION: tuple[tuple[tuple[int, int], GenerationDefaults], ...] = (((2, 3), LTX_2_3),)
"""Newest first; a checkpoint takes those of the newest generation that it is at or above."""


def cache_dir() -> Path:
    """The user's cache folder for this program: `LTX_A2V_CACHE_DIR`, else below `XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("LTX_A2V_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-a2v"


class Settings(BaseSettings):
    """What the environment says."""

    model_config = SettingsConfigDict(env_prefix="LTX_A2V_", extra="ignore")

    model_dir: Path | None = None
