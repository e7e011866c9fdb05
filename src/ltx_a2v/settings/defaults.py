"""Every default, once.

`GenerationDefaults` are a property of the model's generation and are chosen by the checkpoint's `model_version`;
`Settings` come from flags and from the environment (prefix `LTX_A2V_`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ltx_a2v.errors import InvalidRequest

SPATIAL_FACTOR = 32
"""Pixels per latent cell, each way (the video VAE: patches of 4, three halvings)."""
TEMPORAL_FACTOR = 8
"""Frames per latent frame after the first, which holds one frame."""
AUDIO_LATENTS_PER_SECOND = 25
SIZE_MULTIPLE = 2 * SPATIAL_FACTOR
"""Stage 1 runs at half size and must still fall on the latent grid."""

VRAM_HEADROOM = 2**30
"""Bytes that an automatic budget leaves to others."""

MAX_SIZE = 4096
MAX_FRAMES = 1025
MAX_AUTO_FRAMES = 257
MAX_AUDIO_START = 7 * 24 * 3600
"""Seconds into the audio: a week of it."""
MAX_STEPS = 1000
PROMPT_CACHE_BYTES = 2 * 2**30
"""Encoded prompts kept on disk; one takes 12 MB in bfloat16."""
MAX_IMAGE_PIXELS = 100_000_000
"""Of a conditioning picture: 1.2 GB while it is resized in float32."""
MAX_IMAGE_ASPECT = 32
"""Long side over short side: a hair-thin picture would have to be blown up without bound to cover the frame."""

READ_THREADS = 8
"""Threads that read a checkpoint: by the medians in docs/benchmarks.md never slower than 1, 2 or 4."""
READ_CHUNK_BYTES = 16 * 2**20
"""Read by one thread in one call; two per thread are in flight, 256 MiB. A power of two, as torch rounds pinned memory
up to one."""

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
    """What flags say first and the environment second. Raises `InvalidRequest`, which names the flag."""

    model_config = SettingsConfigDict(env_prefix="LTX_A2V_", env_ignore_empty=True, extra="ignore")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            complaint = error.errors()[0]
            name = self.flag(str(complaint["loc"][0])) if complaint["loc"] else "The settings"
            message = complaint["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"{name} {complaint['input']!r}: {message}.") from None

    @classmethod
    def flag(cls, name: str) -> str:
        """`--no-standby` for a switch that is on by default."""
        return ("--no-" if cls.model_fields[name].default is True else "--") + name.replace("_", "-")
