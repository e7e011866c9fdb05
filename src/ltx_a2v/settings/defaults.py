"""Limits and defaults of the product, which no version of the model decides.

Defaults that a user can set with a flag stand at their field: of a request in `request`, of the model's files, device
and loading in `settings.model`, of the server in `settings.server`.
"""

from __future__ import annotations

import os
from pathlib import Path

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
MAX_IMAGE_PIXELS = 40_000_000
"""Of a conditioning picture."""
REDUCED_IMAGE_PIXELS = MAX_SIZE**2
"""A picture of more is halved while it is decoded: it is larger than any frame, and costs time and memory."""
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
