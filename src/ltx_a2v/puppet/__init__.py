"""The puppet: a miniature LTX-2.3 that ships with the package and animates a drawn face to speech.

It has the original file layout and goes through the code that the 22B model goes through. It is trained, by the code in
`training/`; `miniature` makes another one, with random weights, for tests in which only shapes matter. Its files lie in
`model/`, and `model/SHA256SUMS` lists them; after a training:

    cd src/ltx_a2v/puppet/model && sha256sum *.safetensors gemma-*/* > SHA256SUMS
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidModel

MODEL = Path(__file__).parent / "model"
SUMS = "SHA256SUMS"
SIZES = ((256, 256), (384, 256), (256, 384))
"""Width and height that it was trained for."""
FRAME_RATE = 24.0
"""Frames per second that it was trained for."""
NUM_FRAMES = 121
"""Five seconds: the length of the demo."""


def puppet_paths(folder: Path = MODEL) -> ModelPaths:
    """The puppet's files, each with the bytes that `SHA256SUMS` lists.

    Raises `InvalidModel` naming the file that is missing or damaged.
    """
    for digest, path in _listed(folder):
        if hashlib.sha256(_content(path)).hexdigest() != digest:
            raise InvalidModel(f"{path} of the miniature model is damaged; install ltx-a2v again.")
    return ModelPaths.discover(folder)


def puppet_size() -> str:
    """Of all its files, as `12 MB`."""
    total = sum(path.stat().st_size for _, path in _listed(MODEL))
    return f"{round(total / 1e6)} MB"


def nearest_size(width: int, height: int) -> tuple[int, int]:
    """The one of `SIZES` whose shape is nearest to a picture's."""
    return min(SIZES, key=lambda size: max(width * size[1], height * size[0]) / min(width * size[1], height * size[0]))


def unfamiliar(paths: ModelPaths, width: int, height: int, frame_rate: float) -> str | None:
    """A sentence where the puppet is asked for what it was not trained for; None for other models."""
    if paths.checkpoint.parent.resolve() != MODEL.resolve():
        return None
    if (width, height) in SIZES and frame_rate == FRAME_RATE:
        return None
    trained = ", ".join(f"{w}x{h}" for w, h in SIZES)
    return (
        f"The miniature model was trained for {trained} at {FRAME_RATE:g} frames per second; "
        f"{width}x{height} at {frame_rate:g} may look wrong."
    )


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """Digests and files."""
    lines = _content(folder / SUMS).decode("ascii", "replace").splitlines()
    return [(digest, folder / name) for digest, name in (line.split(maxsplit=1) for line in lines if " " in line)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidModel(
            f"{path} of the miniature model cannot be read ({error.strerror}); install ltx-a2v again."
        ) from error
