"""Limits of the product, independent of the model's version.

Defaults are elsewhere. A request's: `GenerationDefaults` in `versions/ltx_2_3.py`, used by the fields in `request.py`.
A setting's: at its field, in `settings/model.py` (files, device, loading) or `settings/server.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

VRAM_HEADROOM = 2**30
"""Bytes that an automatic budget leaves to other processes."""

MAX_SIZE = 4096
MAX_SECONDS = 3600
"""Of a video."""
MAX_FRAME_RATE = 120
MAX_FRAMES = MAX_SECONDS * MAX_FRAME_RATE + 1
MAX_PICTURES = 8
MAX_WINDOW_FRAMES = 257
"""Made at once: 10.7 s at 24/s. The model's positions reach 20 s, but users see faces change and limbs appear from
about 14 s on."""
MAX_AUDIO_START = 7 * 24 * 3600
"""Seconds into the audio: a week of it."""
MAX_STEPS = 1000
MAX_DISTILLED_LORA_STRENGTH = 2.0
"""1 is what the LoRA was trained for; far above it, latents leave the range that the decoder knows."""
PROMPT_CACHE_BYTES = 2 * 2**30
"""Encoded prompts kept on disk; one takes 12 MB in bfloat16."""
MAX_IMAGE_PIXELS = 40_000_000
"""Most pixels of a conditioning picture."""
REDUCED_IMAGE_PIXELS = MAX_SIZE**2
"""A larger picture is halved while it is decoded: it exceeds any frame, and costs time and memory."""
MAX_IMAGE_ASPECT = 32
"""Long side over short side: a hair-thin picture would have to be blown up without bound to cover the frame."""

QUANTIZATIONS = (
    "fp8-cast",
    "fp8-scaled",
    "fp8-scaled-mm",
    "int8",
    "int8-quanto",
    "fp8-quanto",
    "int4-quanto",
)
"""The transformer's modes besides `none`; `quantization/modes.py` has their formats."""
TEXT_ENCODER_QUANTIZATIONS = ("none", "int4", "bnb-nf4")

READ_THREADS = 8
"""Threads that read a checkpoint: never slower than 1, 2 or 4 by the medians in docs/benchmarks-appendix.md."""
READ_CHUNK_BYTES = 16 * 2**20
"""Read by one thread in one call; two per thread are in flight, 256 MiB. A power of two, as torch rounds pinned memory
up to one."""


def at_home(path: Path) -> Path:
    """With a leading `~` replaced by the user's home folder, where it is known."""
    try:
        return path.expanduser()
    except RuntimeError:  # `~name` of no user
        return path


def cache_dir() -> Path:
    """The user's cache folder for this program: `LTX_A2V_CACHE_DIR`, else below `XDG_CACHE_HOME` or `~/.cache`."""
    chosen = os.environ.get("LTX_A2V_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-a2v"


def data_dir() -> Path:
    """The user's folder for what is to be kept: `LTX_A2V_DATA_DIR`, else below `XDG_DATA_HOME` or `~/.local/share`."""
    chosen = os.environ.get("LTX_A2V_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ltx-a2v"
