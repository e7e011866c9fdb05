"""Requests and settings as flags of the command line, and back."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ltx_a2v.cli.parser import Parser
from ltx_a2v.errors import InvalidRequest, named
from ltx_a2v.request import DEFAULTS, LABEL, GenerationRequest, Guidance, Picture, flag_of
from ltx_a2v.settings.base import Settings
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.settings.server import ServerSettings

ENVIRONMENT = "each also as an environment variable: --some-flag is LTX_A2V_SOME_FLAG, --no-flag is LTX_A2V_FLAG=0"

EVERYDAY_FIELDS = ("prompt", "audio", "image", "output_path", "num_frames", "seed", "quality")
EVERYDAY_SETTINGS = ("model_dir", "vram_budget", "demo", "host", "port", "api_key", "output_dir")
"""All others are for experts."""
OF_VIDEOS = (
    *("prompt_enhancer_url", "prompt_enhancer_model"),
    *("marks", "mark_provider", "c2pa_cert", "c2pa_key", "reproducible"),
)
"""Settings of no use to a command that makes no video."""
SHAPES = dict(zip(("landscape", "portrait", "square"), DEFAULTS.sizes, strict=True))
SIZE_HELP = (
    f"auto ({', '.join(f'{name} {w}x{h}' for name, (w, h) in SHAPES.items())}, whichever is nearest to the picture), "
    "one of these names, or WIDTHxHEIGHT in multiples of 64 (default: auto)"
)

RETAKE_FLAGS = {"retake.start": "--from", "retake.end": "--to", "retake.video": "the video"}

SettingsT = TypeVar("SettingsT", bound=Settings)


def add_request_flags(parser: Parser, only: tuple[str, ...] = (), of_video: bool = False) -> None:
    """One flag per field of a request, or of those in `only`, and of its guidance; and `--size`, unless a video decides
    the size, which also makes the prompt optional."""
    _add_field_flags(parser, GenerationRequest, "request", only, required=not of_video)
    if not of_video:
        parser.everyday.add_argument("--size", metavar="SIZE", default=argparse.SUPPRESS, help=SIZE_HELP)
    _add_field_flags(parser, Guidance, "guidance")


def request_from(arguments: argparse.Namespace, **defaults: object) -> GenerationRequest:
    """`defaults` are of this command, where no flag was given; those of the guidance as a dictionary.

    Raises `InvalidRequest`.
    """
    guidance = Guidance(**{**(_guidance(defaults.pop("guidance", None))), **_fields(arguments, "guidance")})
    given = {**_size(arguments), **_pictures(_fields(arguments, "request"))}
    return GenerationRequest(**{**defaults, **given, "guidance": guidance})


def _guidance(default: object) -> dict[str, Any]:
    return default if isinstance(default, dict) else {}


def _pictures(given: dict[str, Any]) -> dict[str, Any]:
    """One `--image PATH` is the request's `image`; several, or one at a frame, are its `images`."""
    pictures = [Picture.parse(text) for text in given.pop("image", ())]
    if len(pictures) == 1 and pictures[0] == Picture(file=pictures[0].file):
        return {**given, "image": pictures[0].file}
    return {**given, "images": tuple(pictures)} if pictures else given


def _size(arguments: argparse.Namespace) -> dict[str, int | str]:
    """Width and height of `--size`."""
    size = getattr(arguments, "size", "auto")
    if size == "auto":
        return {}
    if _fields(arguments, "request").keys() & {"width", "height"}:
        raise InvalidRequest("size", size, f"and {named('width')} or {named('height')} say the same thing: give one")
    if size in SHAPES:
        width, height = SHAPES[size]
    elif found := re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", size):
        width, height = int(found[1]), int(found[2])
    else:
        raise InvalidRequest("size", size, f"is no size; write auto, {', '.join(SHAPES)}, or 768x512")
    return {"width": width, "height": height}


def add_model_flags(parser: Parser, without: tuple[str, ...] = ()) -> None:
    add_setting_flags(parser, ModelSettings, "expert: model, device and loading", without)


def add_setting_flags(parser: Parser, settings: type[Settings], title: str, without: tuple[str, ...] = ()) -> None:
    """One flag per field that the class adds to its base, except those in `without`.

    A flag that is not given is absent from the namespace, so that the environment applies.
    """
    expert = parser.add_argument_group(title, ENVIRONMENT)
    for name in [name for name in inspect.get_annotations(settings) if name not in without]:
        field = settings.model_fields.get(name)
        if field is not None and _extra(field).get("flag") is not False:
            group = parser.everyday if name in EVERYDAY_SETTINGS else expert
            group.add_argument(settings.flag(name), dest=name, default=argparse.SUPPRESS, **_argument(field))


def flag_name(field: str) -> str:
    """What the command line calls a field of a request or a setting: `guidance.cfg` -> its flag."""
    if field == "images" or field.startswith(Picture.prefix):
        return flag_of(GenerationRequest, "image")
    if field in RETAKE_FLAGS:
        return RETAKE_FLAGS[field]
    if field.startswith(Guidance.prefix):
        return flag_of(Guidance, field.removeprefix(Guidance.prefix))
    if field in GenerationRequest.model_fields and field != "guidance":
        return flag_of(GenerationRequest, field)
    if field == "loras":  # as Python calls them
        field = "lora"
    if field in ServerSettings.model_fields:
        return ServerSettings.flag(field)
    return f"--{field.replace('_', '-')}"


def settings_from(arguments: argparse.Namespace, settings: type[SettingsT]) -> SettingsT:
    """Raises `InvalidRequest`."""
    return settings(**{name: value for name, value in vars(arguments).items() if name in settings.model_fields})


def _add_field_flags(
    parser: Parser, model: type[BaseModel], title: str, only: tuple[str, ...] = (), required: bool = True
) -> None:
    """Text stays text, which the settings' model parses and checks."""
    expert = parser.add_argument_group(f"expert: {title}")
    for name, field in model.model_fields.items():
        if not _extra(field) or (only and name not in only):
            continue
        group = parser.everyday if title == "request" and name in EVERYDAY_FIELDS else expert
        if field.annotation is bool:
            group.add_argument(
                flag_of(model, name), dest=f"{title}.{name}", default=argparse.SUPPRESS, **_argument(field)
            )
            continue
        shown = "" if field.is_required() or field.default is None else f" (default: {_shown(field.default)})"
        group.add_argument(
            flag_of(model, name),
            dest=f"{title}.{name}",
            required=required and field.is_required(),
            default=argparse.SUPPRESS,
            metavar=_METAVARS.get(name) or "|".join(_choices(field)) or name.upper(),
            help=f"{field.description}{shown}".replace("%", "%%"),
            **_ways(name),
        )


_METAVARS = {"stg_blocks": "N", "visible_label": "TEXT", "image": "PATH[:FRAME[:STRENGTH]]"}


def _ways(name: str) -> dict[str, Any]:
    """How a flag is given more than once, or with several values."""
    ways: dict[str, dict[str, Any]] = {
        "stg_blocks": {"nargs": "*"},
        "image": {"action": "append"},
        "visible_label": {"nargs": "?", "const": LABEL},
    }
    return ways.get(name, {})


def _shown(default: Any) -> str:
    return default if len(str(default)) < 60 else f"{str(default)[:50]} ..."


def _fields(arguments: argparse.Namespace, title: str) -> dict[str, Any]:
    given = vars(arguments).items()
    return {name.removeprefix(f"{title}."): value for name, value in given if name.startswith(f"{title}.")}


def _argument(field: FieldInfo) -> dict[str, Any]:
    text = (field.description or "").replace("%", "%%")
    if field.annotation is bool:
        return {"action": "store_false" if field.default is True else "store_true", "help": text}
    shown = f" (default: {field.default})" if field.default not in (None, "", ()) else ""
    kinds = _kinds(field.annotation)
    choices = _choices(field) or None
    return {
        "action": "append" if field.default == () else "store",
        "help": text + shown,
        "choices": choices,
        "metavar": None if choices else _extra(field).get("metavar", _metavar(kinds)),
    }


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """The texts that a field takes, where it takes nothing else."""
    literal = next((kind for kind in _kinds(field.annotation) if typing.get_origin(kind) is Literal), None)
    others = [kind for kind in _kinds(field.annotation) if kind not in (literal, types.NoneType)]
    return () if literal is None or others else typing.get_args(literal)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _metavar(kinds: tuple[Any, ...]) -> str:
    if Path in kinds:
        return "PATH"
    return "N" if kinds[0] in (int, float) else "TEXT"


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
