"""The server's limits on what is in a file, from its header, before anything is decoded. Runs in the worker."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.errors import InvalidAudio, InvalidImage, TooLarge
from ltx_a2v.request import GenerationRequest


@dataclass(frozen=True)
class Limits:
    image_pixels: int
    audio_seconds: float


def check_inputs(request: GenerationRequest, limits: Limits) -> None:
    """Raises `TooLarge`, `InvalidImage` and `InvalidAudio`."""
    _check_audio(request.audio, limits.audio_seconds)
    if request.image is not None:
        _check_image(request.image, limits.image_pixels)


def _check_audio(path: Path, most_seconds: float) -> None:
    import av

    try:
        # a playlist must not make us read other files or the network
        with path.open("rb") as file, av.open(file, "r", options={"protocol_whitelist": "none"}) as container:
            if not container.streams.audio:
                raise InvalidAudio("The audio file holds no sound: give a file with an audio stream.")
            seconds = (container.duration or 0) / 1e6
    except (av.FFmpegError, OSError, ValueError):
        raise InvalidAudio("The audio file cannot be read: give a wav, mp3, flac, ogg or mp4.") from None
    if seconds > most_seconds:
        message = f"The audio is {seconds:.0f} s long; this server allows {most_seconds:.0f}."
        raise TooLarge(message, "audio_too_long")


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
