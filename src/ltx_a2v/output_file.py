"""Whether a file can be written somewhere, asked before hours of work and not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ltx_a2v.errors import InvalidOutput


def check_output_file(path: Path, suffix: str, example: str) -> None:
    """Raises `InvalidOutput` when no file that ends in `suffix` can be written to `path`."""
    folder = path.parent
    try:
        if path.is_dir():
            raise InvalidOutput(f"The output {path} is a folder; add a file name, such as {path / example}.")
        if path.suffix.lower() != suffix:
            raise InvalidOutput(f"The output {path} must end in {suffix}; use {path.with_suffix(suffix)}.")
        if not folder.is_dir():
            raise InvalidOutput(f"The folder {folder} of the output {path.name} does not exist; create it first.")
        # Permissions, full or read-only disks and too long names show best by trying.
        with tempfile.NamedTemporaryFile(prefix=f"{path.name}.", suffix=".part", dir=folder):
            pass
    except OSError as error:
        raise InvalidOutput(f"The output {path} cannot be written ({error.strerror}); choose another place.") from error
