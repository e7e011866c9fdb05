"""Where results go: nothing that exists is replaced unless the user says so."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from ltx_a2v.errors import InvalidOutput, named

Companions = Callable[[Path], Sequence[Path]]
"""All the files that are written for an output path."""


def add_overwrite_flag(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    group.add_argument("--overwrite", action="store_true", help="Replace output files that exist.")


def just_the_file(path: Path) -> Sequence[Path]:
    return (path,)


def free_output(path: Path, *, given: bool, overwrite: bool, files: Companions = just_the_file) -> Path:
    """`path`, or where it is only the command's default and taken, the first free name of output-2.mp4, output-3.mp4 …

    Raises `InvalidOutput` where the user gave a path and one of its files exists.
    """
    taken = [file for file in files(path) if _exists(file)]
    if overwrite or not taken:
        return path
    free = next(name for name in _numbered(path) if not any(map(_exists, files(name))))
    if not given:
        return free
    raise InvalidOutput(
        f"{named('output_path')} {taken[0]} exists already; add --overwrite to replace it, or give another name, such "
        f"as {free}."
    )


def check_free(field: str, path: Path | None, overwrite: bool) -> None:
    """Raises `InvalidOutput` where the file exists."""
    if path is not None and not overwrite and _exists(path):
        raise InvalidOutput(
            f"{named(field)} {path} exists already; add --overwrite to replace it, or give another name."
        )


def is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _numbered(path: Path) -> Iterator[Path]:
    return (path.with_stem(f"{path.stem}-{number}") for number in count(2))


def _exists(path: Path) -> bool:
    """Folders and names that the file system refuses are answered by the checks of outputs."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
