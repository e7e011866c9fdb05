"""The folders of a job's files.

<output-dir>/<job>/{video.mp4, thumbnail.jpg, result.json}    finished; appears by one rename
<output-dir>/.work-<job>-<attempt>/                           an attempt in progress; never served, removed at start
<output-dir>/.lock, <state-dir>/lock                          locked by the only server that uses the folder
<state-dir>/inputs/<job>/{image, audio, video}                uploads; a retake's video may be a link to another job's
<state-dir>/inputs/<job>/windows/                             finished windows of a long video, for the next attempt,
                                                              and partial.mp4, which holds them as one video
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIDEO, THUMBNAIL, RESULT, PARTIAL = "video.mp4", "thumbnail.jpg", "result.json", "partial.mp4"

UPLOAD_SECONDS = 24 * 3600.0
"""An upload of this age without a job belongs to no request any more."""


@dataclass(frozen=True)
class Folders:
    """The paths of one server's folders, and operations on whole folders."""

    outputs: Path
    state: Path

    def create(self) -> None:
        self.outputs.mkdir(parents=True, exist_ok=True)
        (self.state / "inputs").mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(OSError):  # another user's; what is made in it is private all the same
            self.state.chmod(0o700)  # it may be older than this server's umask

    def work(self, job_id: str, attempt: int) -> Path:
        return self.outputs / f".work-{job_id}-{attempt}"

    def finished(self, job_id: str) -> Path:
        return self.outputs / job_id

    def inputs(self, job_id: str) -> Path:
        return self.state / "inputs" / job_id

    def windows(self, job_id: str) -> Path:
        return self.inputs(job_id) / "windows"

    def forget_windows(self, job_id: str, keep_partial: bool) -> None:
        """Of a job that has ended."""
        for file in self.windows(job_id).glob("*"):
            if not (keep_partial and file.name == PARTIAL):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or not there
            self.windows(job_id).rmdir()

    def new_work(self, job_id: str, attempt: int) -> Path:
        folder = self.work(job_id, attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def discard_work(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt has not committed."""
        shutil.rmtree(self.work(job_id, attempt), ignore_errors=True)

    def discard(self, job_id: str, attempt: int) -> None:
        """Remove the files of an attempt, even if it was committed in part."""
        self.discard_work(job_id, attempt)
        shutil.rmtree(self.finished(job_id), ignore_errors=True)

    def problem(self) -> str | None:
        """Why nothing can be kept elsewhere; folders themselves are tested by `StorageProbe`."""
        return None

    def location(self, job_id: str, attempt: int) -> str:
        """Where the video of a finished attempt is."""
        del attempt
        return str(self.finished(job_id) / VIDEO)

    def keep_inputs(self, job_id: str) -> None:
        """Bring the uploads in `inputs` to where every server finds them."""

    def fetch_inputs(self, job_id: str, request: dict[str, Any]) -> dict[str, Any]:
        """The job's request with the paths of its files here."""
        del job_id
        return request

    def input_file(self, job_id: str, which: str) -> Path | None:
        """An upload, to be served; None where there is none."""
        path = self.inputs(job_id) / which
        return path if path.is_file() else None

    def finished_file(self, job_id: str, attempt: int, name: str) -> Path | None:
        """A file of the attempt that completed the job, to be served."""
        del attempt
        path = self.finished(job_id) / name
        return path if path.is_file() else None

    def partial_file(self, job_id: str) -> Path | None:
        """The finished windows as one video, to be served."""
        path = self.windows(job_id) / PARTIAL
        return path if path.is_file() else None

    def keep_windows(self, job_id: str) -> None:
        """Bring the finished windows to where the next attempt finds them."""

    def release(self, job_id: str) -> None:
        """Remove what was only brought here for an attempt."""

    def commit(self, job_id: str, attempt: int) -> None:
        """Make a finished attempt the job's result, all files at once, durably."""
        work, finished = self.work(job_id, attempt), self.finished(job_id)
        for file in work.iterdir():
            sync_to_disk(file)
        sync_to_disk(work)  # the names in it
        shutil.rmtree(finished, ignore_errors=True)  # a damaged result, which recovery did not accept
        work.rename(finished)
        sync_to_disk(self.outputs)  # the rename

    def committed_result(self, job_id: str, attempt: int) -> dict[str, Any] | None:
        """The result of a job whose files were committed but not its record; None where they are incomplete."""
        del attempt  # all attempts are committed to the same place
        finished = self.finished(job_id)
        try:
            result = json.loads((finished / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and (finished / VIDEO).is_file() else None

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.finished(job_id), ignore_errors=True)
        shutil.rmtree(self.inputs(job_id), ignore_errors=True)

    def remove_leftovers(
        self, known_jobs: Collection[str], expired_jobs: Collection[str], shared: bool = False
    ) -> None:
        """Remove unfinished work of our jobs, uploads of jobs that were never accepted, and files of expired jobs.

        Other files stay: another server may have used this folder. `shared`: others use it now, so work and fresh
        uploads stay too.
        """
        for folder in () if shared else self.outputs.glob(".work-*"):
            if folder.name.removeprefix(".work-").rpartition("-")[0] in known_jobs:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.outputs.iterdir():
            if folder.name in expired_jobs:
                self.remove(folder.name)
        for folder in (self.state / "inputs").iterdir():
            is_fresh = shared and time.time() - folder.stat().st_mtime < UPLOAD_SECONDS
            if folder.name in expired_jobs or (folder.name not in known_jobs and not is_fresh):
                shutil.rmtree(folder, ignore_errors=True)

    def size(self, job_id: str) -> int:
        """Bytes of a job's outputs and uploads."""
        folders = (self.finished(job_id), self.inputs(job_id))
        return sum(_size(file) for folder in folders for file in folder.rglob("*"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed meanwhile
        return 0


def sync_to_disk(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
