"""Every default that no model decides, once.

A request takes the newest model version's defaults (`versions.NEWEST`), whatever the checkpoint is; only the perturbed
blocks (`stg_blocks`) follow the checkpoint's version and depth. `Settings` come from flags and from the environment
(prefix `LTX_A2V_`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ltx_a2v.errors import InvalidRequest

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
