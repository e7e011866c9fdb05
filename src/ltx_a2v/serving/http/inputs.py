"""Checks uploaded files against the server's limits. Runs in the worker.

A picture's header is read. Sound is decoded until its end or the limit: its header may say no length, or a wrong one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.errors import InvalidImage, TooLarge
from ltx_a2v.media.sound.decode import check_audio_length
from ltx_a2v.request import GenerationRequest


@dataclass(frozen=True)
class Limits:
    """The operator's limits: pixels of a picture, seconds of sound."""

    image_pixels: int
    audio_seconds: float


def check_inputs(request: GenerationRequest, limits: Limits, poll: Callable[[], None]) -> None:
    """Raises `TooLarge`, `InvalidImage` and `InvalidAudio`, and what `poll` raises, which is called while sound is
    decoded."""
    check_audio_length(request.audio, limits.audio_seconds, poll)
    if request.image is not None:
        _check_image(request.image, limits.image_pixels)


def _check_image(path: Path, most_pixels: int) -> None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is ours
            with Image.open(path) as picture:
                width, height = picture.size
    except Image.DecompressionBombError:
        raise TooLarge("The picture has far more pixels than this server allows.", "image_too_many_pixels") from None
    except (OSError, ValueError, SyntaxError):
        raise InvalidImage("The picture cannot be read: give a png, jpeg or webp.") from None
    if width * height > most_pixels:
        message = f"The picture has {width}x{height} pixels; this server allows {most_pixels} in all."
        raise TooLarge(message, "image_too_many_pixels")
