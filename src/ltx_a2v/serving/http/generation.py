"""Converts the fields of a body to those of a `GenerationRequest`, within the server's limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltx_a2v.errors import InvalidRequest, TooLarge
from ltx_a2v.prompts.wording import check_enhancer
from ltx_a2v.request import DEFAULTS, GenerationRequest, check_quality, fit_num_frames, frame_size
from ltx_a2v.serving.http.bodies import FILE_FIELDS
from ltx_a2v.settings.defaults import MAX_FRAMES
from ltx_a2v.settings.server import ServerSettings

FILES = {"audio", "image", "images", "output_path", "save_latents", "work_dir", "retake", "previews"}
"""Fields of a request that are files: uploads, or the server's own."""


def generation_of(body: dict[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """Fields of a `GenerationRequest` except its files, as JSON. `body` has the fields that were given.

    Raises `InvalidRequest`, which names the body's own fields, and `TooLarge`.
    """
    _check_model(body, settings)
    fields = {name: value for name, value in body.items() if name in GenerationRequest.model_fields}
    fields = {name: value for name, value in fields.items() if name not in FILE_FIELDS}
    if body.get("size") not in (None, "auto"):
        fields["width"], fields["height"] = (int(side) for side in body["size"].split("x"))
    if "fps" in body:
        fields["frame_rate"] = body["fps"]
    fields.setdefault("quality", settings.default_quality)
    fields["guidance"] = body.get("guidance") or {}
    if body.get("seconds") is not None:
        fields["num_frames"] = _frames_for(body)
    try:
        request = GenerationRequest(**fields, audio=Path("-"))
        check_quality(request, settings.distilled_checkpoint)
        check_enhancer(request, settings.prompt_enhancer)
    except InvalidRequest as error:
        raise _of_the_body(error, body) from None
    _check_limits(request, settings, body)
    return request.model_dump(mode="json", exclude=FILES)


def fit_seconds(seconds: float, frame_rate: float) -> int:
    """The fewest frames that have room for `seconds`, as a request with num_frames "auto" takes them for a sound."""
    return min(fit_num_frames(min(seconds, 1e6), frame_rate), MAX_FRAMES)


def longest_frames(frame_rate: float, settings: ServerSettings) -> int:
    """The most frames, 8k+1, that the server makes: room for `max_seconds`."""
    return fit_num_frames(settings.max_seconds, frame_rate)


def _check_model(body: dict[str, Any], settings: ServerSettings) -> None:
    if body.get("model") not in (None, settings.model_id):
        raise InvalidRequest("model", body["model"], f"is not served here; leave it out or use {settings.model_id!r}")


def _frames_for(body: dict[str, Any]) -> int:
    if "num_frames" in body:
        raise InvalidRequest("seconds", body["seconds"], "and num_frames say the same thing: give one of them")
    try:
        seconds = float(body["seconds"])
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("seconds", body["seconds"], "must be a number above 0")
    return fit_seconds(seconds, body.get("fps", GenerationRequest.model_fields["frame_rate"].default))


def _of_the_body(error: InvalidRequest, body: dict[str, Any]) -> InvalidRequest:
    """The same error, named after the field that the client gave."""
    if error.field in ("width", "height") and body.get("size") is not None:
        return InvalidRequest("size", body["size"], f"has a {error.field} that {error.reason}")
    if error.field == "frame_rate" and "fps" in body:
        return InvalidRequest("fps", error.value, error.reason)
    return error


def _check_limits(request: GenerationRequest, settings: ServerSettings, body: dict[str, Any]) -> None:
    width, height = frame_size(request, None, DEFAULTS.sizes)
    pixels = width * height
    if pixels > settings.max_pixels:
        message = f"{width}x{height} has {pixels} pixels; this server allows {settings.max_pixels}."
        raise TooLarge(message, "size_too_large")
    if request.num_frames != "auto" and request.num_frames > longest_frames(request.frame_rate, settings):
        seconds = request.num_frames / request.frame_rate
        message = f"{seconds:.1f} s are longer than the longest video of this server, {settings.max_seconds:g} s."
        error = TooLarge(message, "video_too_long")
        error.field = "seconds" if body.get("seconds") is not None else "num_frames"
        raise error
