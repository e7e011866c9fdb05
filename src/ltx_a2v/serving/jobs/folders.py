"""Where a job's files are.

<output-dir>/<job>/{video.mp4, thumbnail.jpg, result.json}    finished; appears by one rename
<output-dir>/.work-<job>-<attempt>/                           being made; never served, removed at start
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

    def remove_work(self, job_id: str, attempt: int) -> None:
        shutil.rmtree(self.work(job_id, attempt), ignore_errors=True)

    def commit(self, job_id: str, attempt: int) -> None:
        """Make a finished attempt the job's result, all files at once."""
        self.work(job_id, attempt).rename(self.finished(job_id))
        sync_to_disk(self.outputs)  # the rename

    def committed_result(self, job_id: str) -> dict[str, Any] | None:
        """The result of a job whose files were committed before its record was."""
        try:
            result: dict[str, Any] = json.loads((self.finished(job_id) / RESULT).read_text())
        except FileNotFoundError:
            return None
        return result

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.finished(job_id), ignore_errors=True)
        shutil.rmtree(self.inputs(job_id), ignore_errors=True)

    def remove_leftovers(self, known_jobs: Collection[str]) -> None:
        """Unfinished work, and uploads whose job was never accepted."""
        for folder in self.outputs.glob(".work-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.state / "inputs").iterdir():
            if folder.name not in known_jobs:
                shutil.rmtree(folder, ignore_errors=True)

    def size(self, job_id: str) -> int:
        return sum(file.stat().st_size for file in self.finished(job_id).glob("*") if file.is_file())


def sync_to_disk(path: Path) -> None:
    """A file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
