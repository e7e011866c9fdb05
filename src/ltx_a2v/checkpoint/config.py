"""Reads the `config` in a checkpoint's metadata; the model's version interprets it (`versions`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, json_object
from ltx_a2v.errors import A2VError, InvalidModel


def read_config(file: SafetensorsFile) -> dict[str, Any]:
    raw = file.metadata.get("config")
    if raw is None:
        raise InvalidModel(
            f"{file.path} has no 'config' in its metadata, so its architecture is unknown; use an original file."
        )
    config = json_object(raw)
    if config is None:
        raise InvalidModel(f"{file.path} has a damaged 'config' in its metadata: it is not a JSON object.")
    return config


@contextmanager
def usable_config(path: Path) -> Iterator[None]:
    """Any error from reading an unknown config, or from the modules built from it, becomes `InvalidModel`."""
    try:
        yield
    except A2VError:
        raise
    except Exception as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InvalidModel(
            f"{path} has a config that no supported model has ({what}); use an original file."
        ) from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
