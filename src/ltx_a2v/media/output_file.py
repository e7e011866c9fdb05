"""Files that the user named to be written: asked about before hours of work and not after, and never half written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ltx_a2v.errors import InvalidOutput


def check_output_file(path: Path, suffix: str | None, example: str) -> None:
    """Raises `InvalidOutput` when no file (that ends in `suffix`, where there is one) can be written to `path`."""
    folder = path.parent
    with _refusals(path):
        if path.is_dir():
            raise InvalidOutput(f"The output {path} is a folder; add a file name, such as {path / example}.")
        if suffix and path.suffix.lower() != suffix:
            raise InvalidOutput(f"The output {path} must end in {suffix}; use {path.with_suffix(suffix)}.")
        if not folder.is_dir():
            raise InvalidOutput(f"The folder {folder} of the output {path.name} does not exist; create it first.")
        # Permissions, full or read-only disks and too long names show best by trying.
        with tempfile.NamedTemporaryFile(prefix=f"{path.name}.", suffix=".part", dir=folder):
            pass


def check_overwrites_nothing(outputs: Mapping[str, Path | None], inputs: Iterable[tuple[str, Path | None]]) -> None:
    """By flag. Raises `InvalidOutput` when an output is the same file as an input or as another output."""
    taken = {_identity(path): flag for flag, path in inputs if path is not None}
    for flag, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(_identity(path), flag)
        if other != flag:
            raise InvalidOutput(f"{flag} {path} is the same file as {other}; choose another place.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all. Raises `InvalidOutput` where the file system refuses."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with _refusals(path):
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidOutput(f"The output {path} cannot be written ({error.strerror}); choose another place.") from error


def _identity(path: Path) -> tuple[int, int] | Path:
    """Equal for two names of one file, through links of either kind."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return Path(os.path.realpath(path))
    return status.st_dev, status.st_ino
