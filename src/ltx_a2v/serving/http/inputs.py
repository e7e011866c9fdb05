"""Checks uploaded files: whether they can be opened, before their job is accepted, and against the server's limits.

`check_upload` runs in the checking process: it decodes a picture, and sound until the first is found. `check_inputs`
runs in the worker: sound is decoded until its end or the limit, since its header may say no length, or a wrong one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.errors import InvalidAudio, InvalidImage, InvalidInput, InvalidVideo, TooLarge
from ltx_a2v.marks.inspection import inspect_video
from ltx_a2v.media.part import check_has_sound, check_source, frames_of_range
from ltx_a2v.media.picture import check_image
from ltx_a2v.media.read_video import check_first_frame
from ltx_a2v.media.sound.decode import audio_seconds, check_audio_length
from ltx_a2v.request import GenerationRequest, Retake


@dataclass(frozen=True)
class Limits:
    """The operator's limits: pixels of a picture, seconds of sound."""

    image_pixels: int
    audio_seconds: float


SOME_SOUND = 0.01
"""Seconds that are decoded to see that there is sound."""


def check_upload(which: str, path: Path, start: float, limits: Limits) -> None:
    """Raises `TooLarge`, `InvalidImage` and `InvalidAudio`; messages do not name the path, which is the server's."""
    try:
        if which == "image":
            _check_image(path, limits.image_pixels)
            check_image(path)
        else:
            audio_seconds(path, start, at_most=SOME_SOUND)
    except (InvalidImage, InvalidAudio) as error:
        raise type(error)(_without_path(error.template, path)) from None


def check_retake(path: Path, start: float, end: float, *, is_heard: bool) -> dict[str, Any]:
    """Width, height, frame rate and frames of a video of which a part is made again; its sound is needed where
    `is_heard`.

    Raises `InvalidVideo`, `InvalidAudio` and `InvalidRequest`, which do not name the path.
    """
    retake = Retake(video=path, start=start, end=end)
    try:
        source = check_source(retake)
        frames_of_range(retake, source)
        check_first_frame(path)
        if is_heard:
            check_has_sound(retake)
            audio_seconds(path, at_most=SOME_SOUND)
    except (InvalidVideo, InvalidAudio) as error:
        raise type(error)(_without_path(error.template, path)) from None
    return asdict(source)


def inspect_upload(path: Path) -> dict[str, Any]:
    """What a video says of itself. Raises `InvalidInput`, which does not name the path."""
    try:
        return inspect_video(path).as_json()
    except InvalidInput as error:
        raise InvalidInput(_without_path(error.template, path)) from None


def check_inputs(request: GenerationRequest, limits: Limits, poll: Callable[[], None]) -> None:
    """Raises `TooLarge`, `InvalidImage` and `InvalidAudio`, and what `poll` raises, which is called while sound is
    decoded."""
    check_audio_length(request.audio, limits.audio_seconds, poll)
    for picture in request.pictures:
        _check_image(picture.file, limits.image_pixels)


def _check_image(path: Path, most_pixels: int) -> None:
    """From the header; a file whose header cannot be read is left to the decoder, which says why."""
    from PIL import Image

    width, height, far_too_large = 0, 0, False
    with contextlib.suppress(Exception), warnings.catch_warnings():  # on damaged files Pillow raises nearly any error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is ours
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except Image.DecompressionBombError:
            far_too_large = True
    if far_too_large:
        raise TooLarge("The picture has far more pixels than this server allows.", "image_too_many_pixels")
    if width * height > most_pixels:
        message = f"The picture has {width}x{height} pixels; this server allows {most_pixels} in all."
        raise TooLarge(message, "image_too_many_pixels")


def _without_path(message: str, path: Path) -> str:
    """ "The image /…/image is damaged" -> "The image is damaged"; "/…/audio is empty" -> "The file is empty"."""
    text = message
    for kind in ("image", "video", "file"):
        text = text.replace(f"{kind} {path}", kind)
    text = text.replace(str(path), "the file")
    return text[0].upper() + text[1:]
