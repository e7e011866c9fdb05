"""Where a job's files are.

<output-dir>/<job>/{video.mp4, thumbnail.jpg, result.json}    finished; appears by one rename
<output-dir>/.work-<job>-<attempt>/                           being made; never served, removed at start
<output-dir>/.lock, <state-dir>/lock                          held by the one server that works there
<state-dir>/inputs/<job>/{image, audio}                       uploads
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIDEO, THUMBNAIL, RESULT = "video.mp4", "thumbnail.jpg", "result.json"


@dataclass(frozen=True)
class Folders:
    """The paths of one server, and what is done with whole folders."""

    outputs: Path
    state: Path

    def create(self) -> None:
        self.outputs.mkdir(parents=True, exist_ok=True)
        (self.state / "inputs").mkdir(parents=True, exist_ok=True, mode=0o700)

    def work(self, job_id: str, attempt: int) -> Path:
        return self.outputs / f".work-{job_id}-{attempt}"

    def finished(self, job_id: str) -> Path:
        return self.outputs / job_id

    def inputs(self, job_id: str) -> Path:
        return self.state / "inputs" / job_id

    def new_work(self, job_id: str, attempt: int) -> Path:
        folder = self.work(job_id, attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def discard(self, job_id: str, attempt: int) -> None:
        """What an attempt has made, also where it was committed only in part."""
        shutil.rmtree(self.work(job_id, attempt), ignore_errors=True)
        shutil.rmtree(self.finished(job_id), ignore_errors=True)

    def commit(self, job_id: str, attempt: int) -> None:
        """Make a finished attempt the job's result, all files at once, durably."""
        work, finished = self.work(job_id, attempt), self.finished(job_id)
        for file in work.iterdir():
            sync_to_disk(file)
        sync_to_disk(work)  # the names in it
        shutil.rmtree(finished, ignore_errors=True)  # damaged, where recovery has not taken it for the result
        work.rename(finished)
        sync_to_disk(self.outputs)  # the rename

    def committed_result(self, job_id: str) -> dict[str, Any] | None:
        """The result of a job whose files were committed before its record was; None where it is not whole."""
        finished = self.finished(job_id)
        try:
            result = json.loads((finished / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and (finished / VIDEO).is_file() else None

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.finished(job_id), ignore_errors=True)
        shutil.rmtree(self.inputs(job_id), ignore_errors=True)

    def remove_leftovers(self, known_jobs: Collection[str], expired_jobs: Collection[str]) -> None:
        """Unfinished work of our jobs, uploads whose job was never accepted, files that outlived their time.

        What belongs to no job of ours is left alone: another server may have worked in this folder.
        """
        for folder in self.outputs.glob(".work-*"):
            if folder.name.removeprefix(".work-").rpartition("-")[0] in known_jobs:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.outputs.iterdir():
            if folder.name in expired_jobs:
                self.remove(folder.name)
        for folder in (self.state / "inputs").iterdir():
            if folder.name not in known_jobs or folder.name in expired_jobs:
                shutil.rmtree(folder, ignore_errors=True)

    def size(self, job_id: str) -> int:
        """Bytes of a job's outputs and uploads."""
        folders = (self.finished(job_id), self.inputs(job_id))
        return sum(_size(file) for folder in folders for file in folder.glob("*"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed meanwhile
        return 0


def sync_to_disk(path: Path) -> None:
    """A file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
