"""The request of a user: frozen, validated, on the model's grid.

The flags of the command line and the fields of the HTTP API are made from the fields below (`flag` is the command
line's name, the description is the help text), so there is one place to add or change one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ltx_a2v.errors import InvalidRequest, did_you_mean, named
from ltx_a2v.settings.complaints import NOT_AN_INTEGER, reason_of
from ltx_a2v.settings.defaults import (
    MAX_AUDIO_START,
    MAX_FRAME_RATE,
    MAX_FRAMES,
    MAX_PICTURES,
    MAX_SECONDS,
    MAX_SIZE,
    MAX_STEPS,
    MAX_WINDOW_FRAMES,
    at_home,
)
from ltx_a2v.versions import NEWEST

Quality = Literal["standard", "fast"]
SpeechPreparation = Literal["auto", "off"]
PromptStyle = Literal["none", "portrait", "stage"]
DEFAULTS = NEWEST.defaults
FAST_STEPS = NEWEST.schedule.distilled_steps
SIZE_MULTIPLE, TEMPORAL_FACTOR = NEWEST.latents.size_multiple, NEWEST.latents.temporal_factor


LABEL = "Made with AI"
"""Of a visible label without a text."""
MAX_LABEL = 60


def _sizes_in_words() -> str:
    landscape, portrait, square = (f"{width}x{height}" for width, height in DEFAULTS.sizes)
    return f"{landscape}, {portrait} or {square}, whichever is nearest to the picture."


def _option(default: Any, flag: str, description: str, **constraints: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"flag": flag}, **constraints)


class _Frozen(BaseModel):
    """Base of the models of a request: immutable, and validation errors become `InvalidRequest`."""

    prefix: ClassVar[str] = ""
    """Prefix of its fields in errors, such as `guidance.`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _first_complaint(type(self), error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Else True would be a width of 1."""
        if cls.model_fields[info.field_name or ""].annotation is bool:
            return value
        if isinstance(value, bool) or (isinstance(value, list | tuple) and any(isinstance(v, bool) for v in value)):
            raise PydanticCustomError("bool", "is not a value for this")
        return value

    @field_validator("*")
    @classmethod
    def _usable_characters(cls, value: Any) -> Any:
        """Refuse text that is not UTF-8, as a shell can pass it, and NUL bytes, which no file system accepts."""
        if isinstance(value, Path) and "\0" in str(value):
            raise PydanticCustomError("nul", "is not a path: it contains a NUL byte")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise PydanticCustomError("surrogates", "is not valid UTF-8")
        return at_home(value) if isinstance(value, Path) else value

    def __repr__(self) -> str:
        """Only the fields that differ from their defaults."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in fields}
        shown = [f"{name}={_short(value)}" for name, value in given.items() if value != fields[name].default]
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class Guidance(_Frozen):
    """How the passes of a guided step are combined (reference: `MultiModalGuider`).

    `pred = pos + (cfg-1)(pos-neg) + stg(pos-perturbed) + (modality-1)(pos-isolated)`, then scaled by
    `rescale * std(pos)/std(pred) + (1-rescale)`.
    """

    prefix: ClassVar[str] = "guidance."

    cfg: float = _option(
        DEFAULTS.cfg, "--video-cfg-guidance-scale", "How closely to follow the prompt; 1 turns it off.", ge=0, le=100
    )
    stg: float = _option(
        DEFAULTS.stg, "--video-stg-guidance-scale", "Spatio-temporal guidance; 0 turns it off.", ge=0, le=100
    )
    stg_blocks: tuple[int, ...] | None = _option(
        None,
        "--video-stg-blocks",
        "Transformer blocks that the perturbed pass perturbs; default: the model's (28 of 48 in "
        f"{NEWEST.name}); the flag without a number turns it off.",
    )
    modality: float = _option(
        DEFAULTS.modality, "--a2v-guidance-scale", "How closely to follow the audio; 1 turns it off.", ge=0, le=100
    )
    rescale: float = _option(
        DEFAULTS.rescale,
        "--video-rescale-scale",
        "Reduces over-saturation caused by guidance; 0 = off, 1 = strongest.",
        ge=0,
        le=1,
    )

    skip_step: int = _option(
        0,
        "--video-skip-step",
        "How many steps of stage 1 use the prediction of a computed step again before the next one is computed: "
        "faster, and another result; 0 computes all.",
        ge=0,
        lt=MAX_STEPS,
    )

    @field_validator("stg_blocks")
    @classmethod
    def _distinct_blocks(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is None:
            return None
        if any(block < 0 for block in blocks):
            raise ValueError("must be block numbers, which start at 0")
        return tuple(sorted(set(blocks)))


class Picture(_Frozen):
    """A picture, and the frame of the video that shows it."""

    prefix: ClassVar[str] = "images."

    file: Path = Field(description="The picture.")
    frame: int | Literal["last"] = Field(default=0, description="The frame that shows it: 0 is the first, or 'last'.")
    strength: float | None = Field(
        default=None,
        description="1 keeps the picture as it is, 0 ignores it; default: that of `image_strength`.",
        ge=0,
        le=1,
    )

    @classmethod
    def parse(cls, given: str) -> Picture:
        """From `PATH`, `PATH:FRAME` or `PATH:FRAME:STRENGTH`; an existing file of the whole name is that file.

        Raises `InvalidRequest`.
        """
        found = re.fullmatch(r"(.+?):(last|-?\d+)(?::([^:]*))?", given)
        if found is None or Path(given).exists():
            return cls(file=Path(given))
        fields: dict[str, Any] = dict(zip(("file", "frame", "strength"), found.groups(), strict=True))
        return cls(**fields)

    @field_validator("frame")
    @classmethod
    def _in_a_video(cls, frame: int | str) -> int | str:
        if isinstance(frame, int) and not 0 <= frame < MAX_FRAMES:
            raise ValueError(f"must be 0 to {MAX_FRAMES - 1}, or 'last'")
        return frame


class Retake(_Frozen):
    """A part of a finished video, to be made again."""

    prefix: ClassVar[str] = "retake."

    video: Path = Field(description="The finished video.")
    start: float = Field(description="Seconds at which the part begins.", ge=0, le=MAX_SECONDS)
    end: float = Field(description="Seconds at which it ends.", gt=0, le=MAX_SECONDS)

    @model_validator(mode="after")
    def _is_a_part(self) -> Retake:
        if self.end <= self.start:
            raise InvalidRequest("retake.end", self.end, f"must be after the start, {self.start}")
        return self


class GenerationRequest(_Frozen):
    """One video to make.

    Raises `InvalidRequest` when a value cannot be used; the message names the nearest values that can.
    """

    prompt: str = Field(description="What is to be seen and how it is said.", json_schema_extra={"flag": "--prompt"})
    audio: Path = Field(
        description="The speech: any audio file, or a video whose sound is used.",
        json_schema_extra={"flag": "--audio"},
    )
    image: Path | None = _option(
        None,
        "--image",
        "The picture that becomes the first frame. As PATH:FRAME or PATH:FRAME:STRENGTH that of another frame, a "
        "number or 'last'; may be given several times.",
    )
    images: tuple[Picture, ...] = Field(
        default=(),
        description=f"More pictures, each at its frame; at most {MAX_PICTURES} in all.",
        max_length=MAX_PICTURES,
    )
    output_path: Path = _option(Path("output.mp4"), "--output-path", "Where to write the mp4.")
    negative_prompt: str = _option(DEFAULTS.negative_prompt, "--negative-prompt", "What to steer away from.")
    audio_start_time: float = _option(
        0.0, "--audio-start-time", "Seconds into the audio at which to start.", ge=0, le=MAX_AUDIO_START
    )
    image_strength: float = _option(1.0, "--image-strength", "1 keeps the picture as it is, 0 ignores it.", ge=0, le=1)
    image_crf: int = _option(
        DEFAULTS.image_crf,
        "--image-crf",
        "Compress the picture with H.264 at this quality first, because the training pictures were; 0: don't.",
        ge=0,
        le=51,
    )
    width: int | Literal["auto"] = _option(
        "auto",
        "--width",
        f"Width in pixels, a multiple of {SIZE_MULTIPLE}; 'auto', here and for the height: {_sizes_in_words()}",
    )
    height: int | Literal["auto"] = _option("auto", "--height", f"Height in pixels, a multiple of {SIZE_MULTIPLE}.")
    num_frames: int | Literal["auto"] = _option(
        "auto",
        "--num-frames",
        "Frames, 8k+1; 'auto' takes as many as the audio needs, rounded up.",
    )
    frame_rate: float = _option(DEFAULTS.frame_rate, "--frame-rate", "Frames per second.", ge=1, le=MAX_FRAME_RATE)
    num_inference_steps: int = _option(
        DEFAULTS.num_inference_steps, "--num-inference-steps", "Denoising steps of stage 1.", ge=1, le=MAX_STEPS
    )
    seed: int = _option(DEFAULTS.seed, "--seed", "Same seed, same video.", ge=0, lt=2**63)
    guidance: Guidance = Guidance()
    retake: Retake | None = Field(
        default=None, description="Make this part of a finished video again; size, rate and length are the video's."
    )
    save_latents: Path | None = _option(
        None, "--save-latents", "Also write the latents of both stages to this safetensors file."
    )

    quality: Quality = _option(
        "standard",
        "--quality",
        f"'standard': guided steps; 'fast': {FAST_STEPS} steps in one pass, by the distilled LoRA in both stages. "
        "Another result, not the same one sooner.",
    )
    speech_preparation: SpeechPreparation = _option(
        "auto",
        "--speech-preparation",
        "What prepares the sound that conditions the video, never the sound that is heard: 'auto' or 'off'.",
    )
    window_frames: int = _option(
        241,
        "--window-frames",
        f"Frames that are made at once, 8k+1, at most {MAX_WINDOW_FRAMES}; a longer video is made in windows.",
    )
    window_overlap: int = _option(
        17, "--window-overlap", "Frames that a window takes over from the one before, 8k+1, fewer than a window's."
    )
    work_dir: Path | None = _option(
        None,
        "--work-dir",
        "Folder for the finished windows of a long video; after an interruption the same command goes on there.",
    )
    prompt_style: PromptStyle = _option(
        "none", "--prompt-style", "Words put around the prompt: who speaks, that they speak, what the camera does."
    )
    enhance_prompt: bool = _option(
        False, "--enhance-prompt", "Have the prompt written out by the language model at the enhancer's URL."
    )
    check_sync: bool = _option(
        False, "--check-sync", "Measure in the finished video how the mouth follows the sound, for the report."
    )

    visible_label: str | None = _option(
        None,
        "--visible-label",
        f"Show a text in the lower left corner of every frame, at most {MAX_LABEL} characters; without a text "
        f"'{LABEL}'.",
    )
    mark_prompt: bool = _option(
        False, "--mark-prompt", "Write the prompts into the video too, among the settings that can be read back."
    )
    previews: bool = Field(
        default=False, description="Give rough pictures of the video while it is made: `Previewed` events."
    )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """`image` at frame 0, and `images`."""
        first = () if self.image is None else (Picture(file=self.image),)
        return (*first, *self.images)

    @field_validator("visible_label")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        if text is None:
            return None
        if not text.strip():
            raise ValueError("is empty: give a text, or leave it out")
        if not text.isprintable():
            raise ValueError("must be one line without control characters")
        if len(text) > MAX_LABEL:
            raise ValueError(f"has {len(text)} characters; at most {MAX_LABEL} are shown")
        return text.strip()

    @field_validator("width", "height")
    @classmethod
    def _on_the_grid(cls, size: int | str) -> int | str:
        if size == "auto" or (
            isinstance(size, int) and SIZE_MULTIPLE <= size <= MAX_SIZE and size % SIZE_MULTIPLE == 0
        ):
            return size
        nearest = " or ".join(str(n) for n in nearest_sizes(int(size)))
        raise ValueError(f"must be a multiple of {SIZE_MULTIPLE} up to {MAX_SIZE}; use {nearest}")

    @field_validator("num_frames")
    @classmethod
    def _whole_latent_frames(cls, frames: int | str) -> int | str:
        if frames == "auto" or (
            isinstance(frames, int) and 1 <= frames <= MAX_FRAMES and frames % TEMPORAL_FACTOR == 1
        ):
            return frames
        nearest = " or ".join(str(n) for n in nearest_num_frames(int(frames)))
        raise ValueError(f"must be 8k+1, or 'auto'; use {nearest}")

    @field_validator("window_frames", "window_overlap")
    @classmethod
    def _windows_of_whole_latent_frames(cls, frames: int) -> int:
        if not (TEMPORAL_FACTOR < frames <= MAX_WINDOW_FRAMES and frames % TEMPORAL_FACTOR == 1):
            raise ValueError(f"must be 8k+1, from {TEMPORAL_FACTOR + 1} to {MAX_WINDOW_FRAMES}")
        return frames

    @model_validator(mode="after")
    def _windows_are_longer_than_their_overlap(self) -> GenerationRequest:
        if self.window_overlap >= self.window_frames:
            reason = f"must be less than {named('window_frames')}, {self.window_frames}"
            raise InvalidRequest("window_overlap", self.window_overlap, reason)
        return self

    @model_validator(mode="after")
    def _ends_within_an_hour(self) -> GenerationRequest:
        if self.num_frames != "auto" and self.num_frames - 1 > MAX_SECONDS * self.frame_rate:
            seconds = self.num_frames / self.frame_rate
            raise InvalidRequest(
                "num_frames", self.num_frames, f"are {seconds:.0f} s; a video may last {MAX_SECONDS} s"
            )
        return self

    @model_validator(mode="after")
    def _skips_fewer_steps_than_there_are(self) -> GenerationRequest:
        skip_step = self.guidance.skip_step
        if skip_step and self.quality == "fast":
            raise InvalidRequest(
                "guidance.skip_step",
                skip_step,
                f"cannot be used with {named('quality')} fast, which needs all of its {FAST_STEPS} steps: use 0",
            )
        if skip_step and skip_step >= self.num_inference_steps:
            raise InvalidRequest(
                "guidance.skip_step",
                skip_step,
                f"is too large: it must be below {named('num_inference_steps')}, {self.num_inference_steps}",
            )
        return self


def unused_by_fast(request: GenerationRequest) -> str | None:
    """A sentence where the request has values that quality fast does not use; None otherwise.

    They are no mistake, so that one set of values can be tried in both qualities.
    """
    guidance = request.guidance
    single_pass = (guidance.cfg, guidance.stg, guidance.modality) == (1.0, 0.0, 1.0)
    differs = {
        "the number of steps": request.num_inference_steps not in (DEFAULTS.num_inference_steps, FAST_STEPS),
        "the guidance": guidance != Guidance() and not single_pass,
        "the negative prompt": request.negative_prompt not in (DEFAULTS.negative_prompt, ""),
    }
    unused = [name for name, given in differs.items() if given]
    if request.quality != "fast" or not unused:
        return None
    return f"Quality fast takes {FAST_STEPS} steps in one pass. Not used: {', '.join(unused)}."


def check_quality(request: GenerationRequest, distilled_checkpoint: bool) -> None:
    """Raises `InvalidRequest` where a distilled checkpoint is asked for guided steps, which it was not trained for."""
    if distilled_checkpoint and request.quality != "fast":
        reason = f"needs a checkpoint that is not distilled: use fast, or leave {named('distilled_checkpoint')} out"
        raise InvalidRequest("quality", request.quality, reason)


def nearest_sizes(size: int) -> list[int]:
    """The sizes next to `size` that the model can make: one where it is out of range, else below and above."""
    below = min(max(size // SIZE_MULTIPLE * SIZE_MULTIPLE, SIZE_MULTIPLE), MAX_SIZE)
    above = min(max(-(-size // SIZE_MULTIPLE) * SIZE_MULTIPLE, SIZE_MULTIPLE), MAX_SIZE)
    return sorted({below, above})


def nearest_num_frames(frames: int) -> list[int]:
    below = min(max((frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1, 1), MAX_FRAMES)
    above = min(max(-(-(frames - 1) // TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1, 1), MAX_FRAMES)
    return sorted({below, above})


def fit_num_frames(audio_seconds: float, frame_rate: float) -> int:
    """The shortest 8k+1 that has room for `audio_seconds`, from 9 on: silence at the end rather than a lost syllable.

    A hundredth of a frame may be left over: 97 frames at 24/s are 178,237.5 samples at 44.1 kHz.
    """
    needed = math.ceil(audio_seconds * frame_rate - 0.01)
    return max(-(-(needed - 1) // TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1, 9)


def frame_size(
    request: GenerationRequest, picture: tuple[int, int] | None, sizes: Iterable[tuple[int, int]]
) -> tuple[int, int]:
    """Width and height of the request's video.

    Where both are "auto", the one of `sizes` whose shape is nearest to the `picture`'s, or the first one without a
    picture; where one is, it is the first one's.
    """
    sizes = tuple(sizes)
    chosen = sizes[0]
    if picture is not None and request.width == request.height == "auto":
        chosen = nearest_shape(picture, sizes)
    width = chosen[0] if request.width == "auto" else request.width
    height = chosen[1] if request.height == "auto" else request.height
    return width, height


def nearest_shape(picture: tuple[int, int], sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The one of `sizes` that shows most of a picture of that width and height."""
    width, height = picture
    return max(sizes, key=lambda size: min(width * size[1], height * size[0]) / max(width * size[1], height * size[0]))


def flag_of(model: type[BaseModel], field: str) -> str:
    extra = model.model_fields[field].json_schema_extra
    return str(extra["flag"]) if isinstance(extra, dict) else field


def _first_complaint(model: type[_Frozen], error: ValidationError) -> InvalidRequest:
    complaint = error.errors()[0]
    name = str(complaint["loc"][0]) if complaint["loc"] else "request"
    if name not in model.model_fields:
        hint = did_you_mean(name, model.model_fields) or f"known are {', '.join(model.model_fields)}"
        return InvalidRequest(reason=f"Unknown field {name!r}; {hint}")
    field = model.prefix + name
    if complaint["type"] == "missing":
        return InvalidRequest(field, reason=f"is missing: {model.model_fields[name].description}")
    reason = reason_of(complaint)
    or_auto = " or 'auto'" if name in ("num_frames", "width", "height") and reason == NOT_AN_INTEGER else ""
    return InvalidRequest(field, complaint["input"], reason + or_auto)


def _short(value: object) -> str:
    """As in a constructor: a path as its text, long text cut."""
    shown = repr(str(value) if isinstance(value, Path) else value)
    return shown if len(shown) <= 60 or not isinstance(value, str) else f"{shown[:56]}...{shown[0]}"
