"""Bodies of requests and replies. What describes a video is taken from `GenerationRequest`: defaults, limits, texts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from ltx_a2v.errors import InvalidRequest, TooLarge
from ltx_a2v.request import GenerationRequest, Guidance, flag_of, nearest_num_frames
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import parse_duration

DATA_URL_EXAMPLE = "data:audio/wav;base64,UklGRg=="
MAX_PROMPT = 10_000


def _valid_duration(value: str | float | None) -> str | float | None:
    if value is not None:
        parse_duration(value)
    return value


KeepAlive = Annotated[
    str | float | None,
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


def _body(name: str, example: dict[str, Any], fields: dict[str, Any]) -> type[BaseModel]:
    config = ConfigDict(extra="forbid", allow_inf_nan=False, title=name, json_schema_extra={"examples": [example]})
    return create_model(name, __config__=config, **fields)


def _text(description: str) -> Any:
    return Field(None, description=description)


GuidanceOptions = create_model(
    "GuidanceOptions",
    __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
    **_fields_of(Guidance, *Guidance.model_fields),
)

_PROMPT = {
    "prompt": (str, Field(max_length=MAX_PROMPT, description=GenerationRequest.model_fields["prompt"].description))
}
_SHARED = {
    **_PROMPT,
    **_fields_of(
        GenerationRequest,
        "negative_prompt",
        "audio_start_time",
        "image_strength",
        "image_crf",
        "num_frames",
        "num_inference_steps",
        "seed",
    ),
    "guidance": (GuidanceOptions | None, Field(None, description="Strengths of the guided passes.")),
    "keep_alive": (KeepAlive, None),
}

VideoCreate = _body(
    "VideoCreate",
    {"prompt": "A woman speaks calmly to the camera.", "audio_reference": DATA_URL_EXAMPLE, "size": "768x512"},
    {
        **_SHARED,
        "model": (str | None, _text("The served model's name; it may be left out.")),
        "audio": (str | None, _text("The speech: a file part, a data URL, or a path below --input-dir.")),
        "audio_reference": (
            str | dict[str, str] | None,
            _text("The speech as a data URL, or as {'audio_url': data URL} (also `audio_reference[audio_url]`)."),
        ),
        "input_reference": (
            str | dict[str, str] | None,
            _text("The first frame: a file part, a data URL, {'image_url': data URL}, or a path below --input-dir."),
        ),
        "size": (str | None, Field(None, pattern=r"^\d{1,5}x\d{1,5}$", description="WIDTHxHEIGHT, multiples of 64.")),
        "seconds": (
            float | str | None,
            _text("Length; the nearest that the model can make is taken. Default: the audio's."),
        ),
        **_fields_of(GenerationRequest, fps="frame_rate"),
    },
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

FILE_FIELDS = {"audio": "audio", "audio_reference": "audio", "input_reference": "image", "image": "image"}
"""Field -> which of the two inputs it gives."""


class JobError(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    """A job, in the shape of OpenAI's `video` with more to it."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    progress: int = Field(ge=0, le=100, description="100 means that the file is saved.")
    created_at: int
    started_at: int | None
    completed_at: int | None = Field(description="When the job ended, however it did.")
    expires_at: int | None = Field(description="When the files are removed.")
    expired: bool
    prompt: str
    size: str
    seconds: str = Field(description="'auto' until the audio's length is known.")
    seed: int
    error: JobError | None
    queue_position: int | None = Field(description="1 is next.")
    phase: str | None
    step: int
    steps: int
    eta_seconds: float | None
    cancelling: bool
    attempts: int
    has_image: bool
    settings: dict[str, Any] = Field(description="What was asked for; the same settings give the same video.")
    result: dict[str, Any] | None = Field(description="What `POST /generate` replies, once completed.")


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class Generated(BaseModel):
    """The reply of `POST /generate`."""

    model_config = ConfigDict(extra="allow")

    id: str
    elapsed_seconds: float
    peak_vram_gib: float
    width: int
    height: int
    num_frames: int
    frame_rate: float
    seed: int
    output_path: str
    video_url: str
    phases: dict[str, float]
    model_version: str
    notices: list[str]


class ErrorReply(BaseModel):
    class Detail(BaseModel):
        code: str
        message: str
        type: str
        param: str | None

    error: Detail


class PlainErrorReply(BaseModel):
    error: str
    code: str


class LoadBody(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    keep_alive: KeepAlive = None


class LoadReply(BaseModel):
    status: Literal["loaded", "unloaded", "unloading"] = Field(description="'unloading': after the running job.")


class LoadedModel(BaseModel):
    name: str
    model: str
    size: int = Field(description="Bytes of the model's files.")
    size_vram: int = Field(description="Bytes of device memory that the worker holds.")
    expires_at: str | None = Field(description="ISO time; null while a job runs and when it stays loaded.")


class LoadedModels(BaseModel):
    models: list[LoadedModel]


class Gpu(BaseModel):
    total: int
    free: int
    used: int
    ours: int | None


class Status(BaseModel):
    """What the page shows."""

    worker: str
    loaded: bool
    expires_at: str | None
    queued: int
    running: str | None
    gpu: Gpu | None
    device_bytes: int


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    worker: str
    queued: int


class Ready(BaseModel):
    ready: bool
    worker: str


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ltx-a2v"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Fitted(BaseModel):
    width: int
    height: int
    size: str
    num_frames: int
    seconds: float


def parse_json(model: type[BaseModel], body: bytes) -> dict[str, Any]:
    """The given fields. Types are taken as they are: "5" is no number here."""
    try:
        return model.model_validate_json(body, strict=True).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def parse_form(model: type[BaseModel], fields: Mapping[str, str]) -> dict[str, Any]:
    """The given fields of a form, where everything is text: `a[b]=c` and JSON objects make nested values."""
    values: dict[str, Any] = {}
    for name, text in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket:
            values.setdefault(outer, {})[inner.removesuffix("]")] = text
        else:
            values[name] = _object_or_text(name, text)
    try:
        return model.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def _object_or_text(name: str, text: str) -> Any:
    if name not in ("guidance", "audio_reference", "input_reference") or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidRequest(f"{name} begins like a JSON object but is none.") from None


def explain(error: ValidationError) -> str:
    complaint = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in complaint["loc"]) or "The body"
    if complaint["type"] == "extra_forbidden":
        return f"Unknown field {name!r}."
    if complaint["type"] == "missing":
        return f"{name} is missing."
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{name} {_shortened(complaint['input'])}: {message}."


def _shortened(value: object) -> str:
    text = repr(value.decode(errors="replace") if isinstance(value, bytes) else value)
    return text if len(text) <= 80 else text[:77] + "…"


def generation_of(body: dict[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """Fields of a `GenerationRequest` except its files, checked and within the server's limits.

    Raises `InvalidRequest` in the words of the body's own fields, and `TooLarge`.
    """
    _check_model(body, settings)
    fields = {name: value for name, value in body.items() if name in GenerationRequest.model_fields}
    fields = {name: value for name, value in fields.items() if name not in FILE_FIELDS}
    if body.get("size") is not None:
        fields["width"], fields["height"] = (int(side) for side in body["size"].split("x"))
    if "fps" in body:
        fields["frame_rate"] = body["fps"]
    fields["guidance"] = body.get("guidance") or {}
    if body.get("seconds") is not None:
        fields["num_frames"] = _frames_for(body)
    request = _checked({**fields, "audio": "-"}, {"frame_rate": "fps"} if "fps" in body else {})
    _check_limits(request, settings)
    return request.model_dump(mode="json", exclude={"audio", "image", "output_path", "save_latents"})


def _check_model(body: dict[str, Any], settings: ServerSettings) -> None:
    if body.get("model") not in (None, settings.model_id):
        raise InvalidRequest(f"model {body['model']!r} is not served here; leave it out or use {settings.model_id!r}.")


def _frames_for(body: dict[str, Any]) -> int:
    if "num_frames" in body:
        raise InvalidRequest("seconds and num_frames say the same thing: give one of them.")
    try:
        seconds = float(body["seconds"])
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest(f"seconds {_shortened(body['seconds'])}: must be a number above 0.")
    return fit_seconds(seconds, body.get("fps", GenerationRequest.model_fields["frame_rate"].default))


def fit_seconds(seconds: float, frame_rate: float) -> int:
    """The number of frames nearest to `seconds` that the model can make."""
    wanted = seconds * frame_rate
    return min(nearest_num_frames(round(min(wanted, 1e6))), key=lambda frames: abs(frames - wanted))


def _checked(fields: dict[str, Any], renamed: dict[str, str]) -> GenerationRequest:
    try:
        return GenerationRequest(**fields)
    except InvalidRequest as error:
        raise InvalidRequest(_in_words_of_the_body(str(error), renamed)) from None


def _in_words_of_the_body(message: str, renamed: dict[str, str]) -> str:
    """`--frame-rate 500: …` is a command line's word for it."""
    flag, space, rest = message.partition(" ")
    for model in (GenerationRequest, Guidance):
        for name in model.model_fields:
            if flag_of(model, name) == flag:
                return renamed.get(name, name) + space + rest
    return message


def _check_limits(request: GenerationRequest, settings: ServerSettings) -> None:
    pixels = request.width * request.height
    if pixels > settings.max_pixels:
        message = f"{request.width}x{request.height} has {pixels} pixels; this server allows {settings.max_pixels}."
        raise TooLarge(message, "size_too_large")
    if request.num_frames != "auto" and request.num_frames > settings.max_frames:
        message = f"{request.num_frames} frames are more than this server's {settings.max_frames}."
        raise TooLarge(message, "too_many_frames")
