"""Bodies of requests: their fields, and how JSON and forms become them.

What describes a video is taken from `GenerationRequest`: defaults, limits, texts. Errors name the body's own fields.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, from_json

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.request import GenerationRequest, Guidance, Picture, Retake
from ltx_a2v.settings.complaints import reason_of
from ltx_a2v.settings.defaults import MAX_PICTURES, MAX_SECONDS
from ltx_a2v.settings.units import parse_duration

DATA_URL_EXAMPLE = "data:audio/wav;base64,UklGRg=="
MAX_PROMPT = 10_000
EMPTY = "is empty: say who speaks, where, and how"
MAX_VALUES = 1000
"""Members and items of a JSON body, counted at all depths."""


def _valid_duration(value: str | float | None) -> str | float | None:
    if value is not None:
        parse_duration(value, "keep_alive")
    return value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(EMPTY)
    return text


KeepAlive = Annotated[
    Annotated[str, Field(max_length=32)] | float | None,
    AfterValidator(_valid_duration),
    Field(description="How long the model stays loaded after this job: '10m', 300, '300', 0 (not), -1 (always)."),
]


def _fields_of(model: type[BaseModel], *names: str, **renamed: str) -> dict[str, Any]:
    """Fields as `create_model` takes them; `renamed` is new name = name there."""
    fields = {}
    for new, old in {**{name: name for name in names}, **renamed}.items():
        info = copy.copy(model.model_fields[old])
        info.json_schema_extra = None
        fields[new] = (info.annotation, info)
    return fields


def _prompt(name: str, *, is_required: bool = True) -> Any:
    """A text of `GenerationRequest`, with the bound that others' texts need."""
    info = GenerationRequest.model_fields[name]
    if not info.is_required():
        return str, Field(info.default, max_length=MAX_PROMPT, description=info.description)
    default: dict[str, Any] = {} if is_required else {"default_factory": str}  # which a schema does not show
    field = Field(**default, max_length=MAX_PROMPT, min_length=1, pattern=r"\S", description=info.description)
    return Annotated[str, AfterValidator(_not_blank)], field


def _body(name: str, example: dict[str, Any], fields: dict[str, Any], **schema: Any) -> type[BaseModel]:
    extra = {"examples": [example], **schema}
    config = ConfigDict(extra="forbid", allow_inf_nan=False, title=name, json_schema_extra=extra)
    return create_model(name, __config__=config, **fields)


def _text(description: str, **constraints: Any) -> Any:
    return Field(None, description=description, **constraints)


GuidanceOptions = create_model(
    "GuidanceOptions",
    __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
    **_fields_of(Guidance, *Guidance.model_fields),
)


class PictureOptions(BaseModel):
    """One of `images`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    file: str | None = _text("A data URL, or a path below --input-dir; in a form the part `images[0]` may hold it.")
    frame: int | Literal["last"] = Field(0, description=Picture.model_fields["frame"].description)
    strength: float | None = Field(None, ge=0, le=1, description=Picture.model_fields["strength"].description)


class RetakeOptions(BaseModel):
    """The part of a finished video that is made again."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    video: str | None = _text(
        "The id of a finished job, a data URL, or a path below --input-dir; in a form the part `retake[video]` may be "
        "the file."
    )
    start: float = Field(ge=0, le=MAX_SECONDS, description=Retake.model_fields["start"].description)
    end: float = Field(gt=0, le=MAX_SECONDS, description=Retake.model_fields["end"].description)


_SHARED = {
    "prompt": _prompt("prompt"),
    "negative_prompt": _prompt("negative_prompt"),
    **_fields_of(
        GenerationRequest,
        "audio_start_time",
        "image_strength",
        "image_crf",
        "num_frames",
        "num_inference_steps",
        "seed",
        "quality",
        "speech_preparation",
        "window_frames",
        "window_overlap",
        "prompt_style",
        "enhance_prompt",
        "check_sync",
        "visible_label",
        "mark_prompt",
    ),
    "images": (
        Annotated[list[PictureOptions], Field(max_length=MAX_PICTURES)] | None,
        _text("Pictures at other frames, in order. In a form: `images[0]`, `images[0][frame]`, `images[0][strength]`."),
    ),
    "guidance": (GuidanceOptions | None, Field(None, description="Strengths of the guided passes.")),
    "keep_alive": (KeepAlive, None),
}

VideoCreate = _body(
    "VideoCreate",
    {"prompt": "A woman speaks calmly to the camera.", "audio_reference": DATA_URL_EXAMPLE, "size": "768x512"},
    {
        **_SHARED,
        "prompt": _prompt("prompt", is_required=False),
        "retake": (
            RetakeOptions | None,
            _text(
                "Make a part of a finished video again. Size, rate and length are the video's, and so is the sound "
                "without `audio`; with the id of a job, its prompt and settings are used where none are given."
            ),
        ),
        "model": (str | None, _text("The served model's name; it may be left out.", max_length=256)),
        "audio": (str | None, _text("The speech: a file part, a data URL, or a path below --input-dir.")),
        "audio_reference": (
            str | dict[str, str] | None,
            _text("The speech as a data URL, or as {'audio_url': data URL} (also `audio_reference[audio_url]`)."),
        ),
        "input_reference": (
            str | dict[str, str] | None,
            _text("The first frame: a file part, a data URL, {'image_url': data URL}, or a path below --input-dir."),
        ),
        "size": (str | None, _text("WIDTHxHEIGHT, multiples of 64, or auto.", pattern=r"^(auto|\d{1,5}x\d{1,5})$")),
        "seconds": (
            float | Annotated[str, Field(max_length=32)] | None,
            _text("Length; rounded up to what the model can make. Default: the audio's."),
        ),
        "webhook_url": (
            str | None,
            _text("URL that is told when the job has ended, at a place of --webhook-allow.", max_length=2048),
        ),
        **_fields_of(GenerationRequest, fps="frame_rate"),
    },
    anyOf=[{"required": ["prompt"]}, {"required": ["retake"]}],
)

Generate = _body(
    "Generate",
    {"prompt": "A woman speaks calmly to the camera.", "audio": "speech.wav", "image": "face.png", "num_frames": 97},
    {
        **_SHARED,
        "audio": (str | None, _text("The speech: a path below --input-dir, a data URL, or a file part.")),
        "image": (str | None, _text("The first frame: a path below --input-dir, a data URL, or a file part.")),
        **_fields_of(GenerationRequest, "width", "height", "frame_rate"),
    },
)

PICTURE_PART = re.compile(r"images\[(\d)\]")
"""The part of a form that holds one of `images`."""
VIDEO_PART = "retake[video]"
"""The part of a form that holds the video of a retake."""
FILE_FIELDS = {"audio": "audio", "audio_reference": "audio", "input_reference": "image", "image": "image"}
"""Field -> which of the two inputs it gives."""


class LoadBody(BaseModel):
    """What `POST /api/load` takes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    keep_alive: KeepAlive = None


def parse_json(model: type[BaseModel], body: bytes) -> dict[str, Any]:
    """The given fields. Types are taken as they are: "5" is not a number here. Raises `InvalidRequest`."""
    check_shape(body)
    try:
        return model.model_validate_json(body, strict=True).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _first_complaint(error) from None


def parse_form(model: type[BaseModel], fields: Mapping[str, str]) -> dict[str, Any]:
    """The given fields of a form, where everything is text: `a[b]=c` and JSON objects make nested values.

    Raises `InvalidRequest`.
    """
    fields, pictures = _pictures_of_form(fields)
    values: dict[str, Any] = {name: _object_or_text(name, text) for name, text in fields.items() if "[" not in name}
    if pictures:
        values["images"] = pictures
    for name, text in fields.items():
        outer, bracket, inner = name.partition("[")
        if not bracket:
            continue
        if outer in fields:
            raise InvalidRequest(outer, reason=f"is given twice: as a whole and as {name[:80]!r}")
        values.setdefault(outer, {})[inner.removesuffix("]")] = text
    try:
        return model.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _first_complaint(error) from None


def _pictures_of_form(fields: Mapping[str, str]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The other fields, and `images` of `images[0]=…`, `images[0][frame]=last` and so on."""
    others, found = dict(fields), dict[int, dict[str, str]]()
    for name in fields:
        if match := re.fullmatch(PICTURE_PART.pattern + r"(?:\[(\w+)\])?", name):
            found.setdefault(int(match[1]), {})[match[2] or "file"] = others.pop(name)
    if sorted(found) != list(range(len(found))):
        raise InvalidRequest("images", reason="must be numbered from images[0] on, without a gap")
    return others, [found[number] for number in range(len(found))]


def check_shape(body: bytes) -> None:
    """Raises `InvalidRequest` for JSON of too many values.

    pydantic lists every complaint, so a body of a million unknown members would cost a gigabyte.
    """
    try:
        values = [from_json(body)]
    except ValueError:
        return  # described better by the model
    count = 0
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            count += len(value)
            if count > MAX_VALUES:
                raise InvalidRequest(reason=f"The body has more than {MAX_VALUES} values")
            values += value.values() if isinstance(value, dict) else value


def _object_or_text(name: str, text: str) -> Any:
    if name not in ("guidance", "retake", "audio_reference", "input_reference") or not text.lstrip().startswith("{"):
        return text
    check_shape(text.encode(errors="replace"))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(name, reason="begins like a JSON object but is none") from None


def _first_complaint(error: ValidationError) -> InvalidRequest:
    complaint = error.errors(include_url=False)[0]
    field = ".".join(_places(complaint))
    if complaint["type"] == "extra_forbidden":
        return unknown_field(str(complaint["loc"][-1]))
    if complaint["type"] == "missing":
        return InvalidRequest(field, reason="is missing")
    if not field:
        return InvalidRequest(reason=f"The body cannot be read as a JSON object: {complaint['msg']}")
    if complaint["type"] in _EMPTY_TYPES and field != "size":
        return InvalidRequest(field, complaint["input"], EMPTY)
    return InvalidRequest(field, complaint["input"], _REASONS.get(complaint["type"]) or reason_of(complaint))


def unknown_field(name: str) -> InvalidRequest:
    hint = "; the picture is input_reference" if name in ("image", "picture") else ""
    error = InvalidRequest(reason=f"Unknown field {name[:80]!r}{hint}")
    error.field = name[:80]
    return error


_EMPTY_TYPES = ("string_too_short", "string_pattern_mismatch")
"""pydantic's words for an empty prompt, and for one of spaces."""
_REASONS = {"string_pattern_mismatch": "must be WIDTHxHEIGHT, as 768x512, or auto", "model_type": "is not an object"}


def _places(complaint: ErrorDetails) -> list[str]:
    """The field's name; without the kinds that pydantic tries for a value, and without members of the client's own."""
    outer, *inner = [str(place) for place in complaint["loc"]] or [""]
    known = {"guidance": GuidanceOptions, "retake": RetakeOptions}.get(outer)
    return [outer, *(name for name in inner if known and name in known.model_fields)] if outer else []
