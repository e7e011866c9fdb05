"""Which frames of a finished video a retake changes, and whether the video can be used for one. Needs no torch."""

from __future__ import annotations

import math

from ltx_a2v.errors import InvalidRequest, InvalidVideo, named
from ltx_a2v.media.read_video import VideoProperties, has_sound, read_properties
from ltx_a2v.request import SIZE_MULTIPLE, Retake
from ltx_a2v.settings.defaults import MAX_FRAME_RATE, MAX_SIZE, MAX_WINDOW_FRAMES

CONTEXT = 32
"""Frames on either side of a part that is made again, which it must fit to."""


def check_source(retake: Retake) -> VideoProperties:
    """Of the video of a retake. Raises `InvalidVideo`, and `InvalidRequest` for a size or rate that is not made."""
    source = read_properties(retake.video)
    if source.frames < 2:
        raise InvalidVideo(f"{retake.video} holds no moving pictures; give a video.")
    wrong = [side for side in (source.width, source.height) if side % SIZE_MULTIPLE or side > MAX_SIZE]
    if wrong:
        reason = f"has a side of {wrong[0]} pixels; scale it to multiples of {SIZE_MULTIPLE} up to {MAX_SIZE}"
        raise InvalidRequest("retake.video", reason=reason)
    if not 1 <= source.frame_rate <= MAX_FRAME_RATE:
        reason = f"has {source.frame_rate:g} frames per second; 1 to {MAX_FRAME_RATE} are made"
        raise InvalidRequest("retake.video", reason=reason)
    return source


def check_has_sound(retake: Retake) -> None:
    """Raises `InvalidVideo` where the video cannot say what the mouth does."""
    if not has_sound(retake.video):
        raise InvalidVideo(f"{retake.video} has no sound; give the speech with {named('audio')}.")


def frames_of_range(retake: Retake, source: VideoProperties) -> range:
    """The frames of `source` that change. Raises `InvalidRequest` for a range outside, or too long to make at once."""
    seconds = source.frames / source.frame_rate
    if retake.start >= seconds:
        raise InvalidRequest("retake.start", retake.start, f"is after the end of the video, {seconds:.2f} s")
    if retake.end > seconds + 1 / source.frame_rate:
        raise InvalidRequest("retake.end", retake.end, f"is after the end of the video, {seconds:.2f} s")
    first = math.floor(retake.start * source.frame_rate + 0.01)
    last = min(math.ceil(retake.end * source.frame_rate - 0.01), source.frames)
    if last - first > MAX_WINDOW_FRAMES - 2 * CONTEXT:
        longest = longest_part(source.frame_rate)
        reason = f"is {retake.end - retake.start:.1f} s after the start; at most {longest:.1f} s are made at once"
        raise InvalidRequest("retake.end", retake.end, reason)
    return range(first, max(last, first + 1))


def longest_part(frame_rate: float) -> float:
    """Seconds."""
    return (MAX_WINDOW_FRAMES - 2 * CONTEXT) / frame_rate
