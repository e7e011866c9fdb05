"""Settings as flags of the command line."""

from __future__ import annotations

import argparse
import inspect
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic.fields import FieldInfo

from ltx_a2v.settings.defaults import Settings

ENVIRONMENT = "each also as an environment variable: --some-flag is LTX_A2V_SOME_FLAG, --no-flag is LTX_A2V_FLAG=0"

SettingsT = TypeVar("SettingsT", bound=Settings)


def add_setting_arguments(parser: argparse.ArgumentParser, settings: type[Settings], title: str) -> None:
    """One flag per field that the class adds to its base.

    A flag that is not given is absent from the namespace, so that the environment speaks.
    """
    group = parser.add_argument_group(title, ENVIRONMENT)
    for name in inspect.get_annotations(settings):
        field = settings.model_fields.get(name)
        if field is not None and _extra(field).get("flag") is not False:
            group.add_argument(settings.flag(name), dest=name, default=argparse.SUPPRESS, **_argument(field))


def settings_from(arguments: argparse.Namespace, settings: type[SettingsT]) -> SettingsT:
    """Raises `InvalidRequest`."""
    return settings(**{name: value for name, value in vars(arguments).items() if name in settings.model_fields})


def _argument(field: FieldInfo) -> dict[str, Any]:
    text = (field.description or "").replace("%", "%%")
    if field.annotation is bool:
        return {"action": "store_false" if field.default is True else "store_true", "help": text}
    shown = f" (default: {field.default})" if field.default not in (None, "", ()) else ""
    kinds = _kinds(field.annotation)
    choices = next((typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal), None)
    return {
        "action": "append" if field.default == () else "store",
        "help": text + shown,
        "choices": choices,
        "metavar": None if choices else _extra(field).get("metavar", _metavar(kinds)),
    }


def _kinds(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _metavar(kinds: tuple[Any, ...]) -> str:
    if Path in kinds:
        return "PATH"
    return "N" if kinds[0] in (int, float) else "TEXT"


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
