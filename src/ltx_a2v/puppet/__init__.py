"""The puppet: a miniature LTX-2.3 that talks, trained by `training/` on drawn faces; docs/puppet.md is its model card.

It goes through the code that the 22B model goes through. `miniature` makes another one, with random weights, for tests
in which only shapes matter. No torch is imported here; `files` packs and unpacks.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidModel, from_json
from ltx_a2v.settings.defaults import cache_dir

VERSION = "2.3-puppet.1"
CHECKPOINT = "ltx-2.3-puppet.safetensors"
SHIPPED = Path(__file__).parent / "puppet.safetensors"
SIZES = ((256, 256), (384, 256), (256, 384))
"""Width and height that it was trained for."""
FRAME_RATE = 24.0
"""Frames per second that it was trained for."""
NUM_FRAMES = 121
"""Five seconds: the length of the demo."""


def puppet_paths(shipped: Path = SHIPPED) -> ModelPaths:
    """The puppet's files in the user's cache folder, unpacked by another process where they are not there yet.

    Raises `InvalidModel` when the shipped file is missing or damaged, `InvalidOutput` when the folder refuses.
    """
    check_shipped(shipped)
    folder = cache_dir() / "puppet"
    if not (folder / VERSION).is_dir():
        command = [sys.executable, "-m", "ltx_a2v.puppet.files", str(folder), str(shipped)]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
        if said:
            raise from_json(json.loads(said))
    return ModelPaths.discover(folder / VERSION)


def check_shipped(shipped: Path) -> None:
    """Raises `InvalidModel` where the file is missing, or has other bytes than its `.sha256` says."""
    for path in (shipped, digest_file(shipped)):
        if not path.is_file():
            raise InvalidModel(f"{path}, the puppet's weights, is missing; install ltx-a2v again.")
    if hashlib.sha256(shipped.read_bytes()).hexdigest() != digest_file(shipped).read_text().split()[0]:
        raise InvalidModel(f"{shipped}, the puppet's weights, is damaged; install ltx-a2v again.")


def digest_file(shipped: Path) -> Path:
    return shipped.with_suffix(".sha256")


def puppet_size() -> str:
    """Of what ships, as `12 MB`."""
    return f"{round(SHIPPED.stat().st_size / 1e6)} MB"


def is_puppet(paths: ModelPaths) -> bool:
    return paths.checkpoint.name == CHECKPOINT


def unfamiliar(paths: ModelPaths, width: int, height: int, frame_rate: float) -> str | None:
    """A sentence where the puppet is asked for what it was not trained for; None for other models."""
    known = (width, height) in SIZES and frame_rate == FRAME_RATE
    if known or not is_puppet(paths):
        return None
    trained = ", ".join(f"{w}x{h}" for w, h in SIZES)
    return (
        f"The miniature model was trained for {trained} at {FRAME_RATE:g} frames per second; "
        f"{width}x{height} at {frame_rate:g} may look wrong."
    )
