"""A model folder in the cache that is made once, by whichever process is first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ltx_a2v.errors import InvalidOutput


def made_once(complete: Path, what: str, make: Callable[[Path], None]) -> Path:
    """`complete`, filled by `make` where it does not exist; another process sees all of it or nothing.

    Raises `InvalidOutput`, which calls the model `what`, when the folder cannot be written, and what `make` raises.
    """
    part = complete.with_name(f"{complete.name}.{os.getpid()}.part")
    try:
        if not complete.is_dir():
            make(part)
            _move(part, complete)
    except OSError as error:
        raise InvalidOutput(
            f"The {what} model cannot be kept in {complete.parent} ({error.strerror}); set LTX_A2V_CACHE_DIR to a "
            "folder that can be written."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return complete


def _move(part: Path, complete: Path) -> None:
    try:
        part.rename(complete)
    except OSError:
        if not complete.is_dir():  # else another process was first
            raise
