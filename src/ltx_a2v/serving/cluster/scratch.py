"""Folders for one of several processes on a machine."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.opening import folders_of
from ltx_a2v.settings.server import ServerSettings

_held: list[int] = []
"""Descriptors of locks, which end with the process."""


def own_folders(settings: ServerSettings) -> Folders:
    """With an object store, new folders below `output_dir`, and those of processes that are gone are removed; without
    one, `output_dir` and `state_dir` themselves, which all machines must share."""
    os.umask(0o077)
    if settings.storage is None:
        folders = folders_of(settings)
    else:
        root = settings.output_dir.resolve()
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        own = root / f".process-{secrets.token_hex(8)}"
        own.mkdir()
        _lock(own)
        folders = folders_of(settings.model_copy(update={"output_dir": own, "state_dir": None}))
    folders.create()
    return folders


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(".process-*"):
        try:
            descriptor = _locked(folder)
        except OSError:  # its process lives, or has just made it
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _lock(folder: Path) -> None:
    (folder / "lock").touch()
    _held.append(_locked(folder))


def _locked(folder: Path) -> int:
    """Raises `OSError` where it is another's, or has no lock yet."""
    descriptor = os.open(folder / "lock", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
