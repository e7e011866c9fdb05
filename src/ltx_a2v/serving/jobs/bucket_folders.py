"""Folders whose files are in an object store, so that any server can answer for any job.

<storage>/inputs/<job>/{audio, image, …}                              uploads; before the job's record
<storage>/outputs/<job>/<attempt>/{video.mp4, thumbnail.jpg, result.json}   result.json last: it says that all are there
<storage>/windows/<job>/                                              finished windows of a long video, and partial.mp4

The folders of this server hold what is worked on, and a cache of what was asked for:
<output-dir>/.cache/<job>-{<attempt>, inputs, windows}/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.jobs.bucket import Bucket
from ltx_a2v.serving.jobs.folders import PARTIAL, RESULT, UPLOAD_SECONDS, VIDEO, Folders
from ltx_a2v.serving.logs import say

CACHED_BYTES = 4 * 2**30
"""Of finished jobs on this server's disk; what was used least recently goes first."""


@dataclass(frozen=True)
class BucketFolders(Folders):
    """The operations of `Folders`, over a bucket."""

    bucket: Bucket

    def create(self) -> None:
        super().create()
        self._cache.mkdir(exist_ok=True, mode=0o700)

    def problem(self) -> str | None:
        return self.bucket.problem()

    def location(self, job_id: str, attempt: int) -> str:
        return f"{self.bucket.url}/{_output(job_id, attempt, VIDEO)}"

    # -- inputs ------------------------------------------------------------------------------------------------------

    def keep_inputs(self, job_id: str) -> None:
        try:
            for file in self.inputs(job_id).glob("*"):
                self.bucket.upload(file, f"inputs/{job_id}/{file.name}")
        finally:
            shutil.rmtree(self.inputs(job_id), ignore_errors=True)

    def fetch_inputs(self, job_id: str, request: dict[str, Any]) -> dict[str, Any]:
        self.release(job_id)  # of an attempt that ended with its server
        fetched: dict[str, Any] = {
            name: self._fetched(job_id, request[name]) for name in ("audio", "image") if request.get(name)
        }
        if retake := request.get("retake"):
            fetched["retake"] = {**retake, "video": self._fetched(job_id, retake["video"])}
        pictures = [{**one, "file": self._fetched(job_id, one["file"])} for one in request.get("images", ())]
        self._fetch_windows(job_id)
        return {**request, **fetched, **({"images": pictures} if pictures else {})}

    def _fetched(self, job_id: str, path: str) -> str:
        """A file that was uploaded with the job, as the server that took it called it; others are below --input-dir."""
        given = Path(path)
        if given.parent.name != job_id:
            return path
        file = self.inputs(job_id) / given.name
        if not self.bucket.download(f"inputs/{job_id}/{given.name}", file):
            raise StorageFailed(f"The uploaded file {given.name} of {job_id} is gone from {self.bucket.url}.")
        return str(file.resolve())

    def input_file(self, job_id: str, which: str) -> Path | None:
        return self._cached_copy(f"inputs/{job_id}/{which}", self._cached(job_id, "inputs") / which)

    # -- outputs -----------------------------------------------------------------------------------------------------

    def finished_file(self, job_id: str, attempt: int, name: str) -> Path | None:
        return self._cached_copy(_output(job_id, attempt, name), self._cached(job_id, attempt) / name)

    def commit(self, job_id: str, attempt: int) -> None:
        work = self.work(job_id, attempt)
        for file in sorted(work.iterdir(), key=lambda file: file.name == RESULT):
            self.bucket.upload(file, _output(job_id, attempt, file.name))
        shutil.rmtree(self._cached(job_id, attempt), ignore_errors=True)
        work.rename(self._cached(job_id, attempt))
        self._bound_cache()

    def committed_result(self, job_id: str, attempt: int) -> dict[str, Any] | None:
        content = self.bucket.read(_output(job_id, attempt, RESULT))
        result = None if content is None else json.loads(content)
        return result if isinstance(result, dict) else None

    def discard(self, job_id: str, attempt: int) -> None:
        self.discard_work(job_id, attempt)
        self._forget(f"outputs/{job_id}/{attempt}")

    def release(self, job_id: str) -> None:
        shutil.rmtree(self.inputs(job_id), ignore_errors=True)

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        for folder in self._cache.glob(f"{job_id}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for kind in ("inputs", "outputs", "windows"):
            self._forget(f"{kind}/{job_id}")

    def remove_leftovers(
        self, known_jobs: Collection[str], expired_jobs: Collection[str], shared: bool = False
    ) -> None:
        """This server's folders are its own, so all work in them is left over; in the bucket, old uploads without a job
        and the files of expired jobs are."""
        super().remove_leftovers(known_jobs, expired_jobs)
        shutil.rmtree(self._cache, ignore_errors=True)
        self._cache.mkdir(mode=0o700)
        old = self.bucket.sizes("inputs", older_than=UPLOAD_SECONDS if shared else 0.0)
        self.bucket.delete(*(key for key in old if key.split("/")[1] not in known_jobs))
        kept = {key.split("/")[1] for key in self.bucket.sizes("outputs")}
        for job_id in kept & set(expired_jobs):
            self.remove(job_id)

    def size(self, job_id: str) -> int:
        kinds = ("inputs", "outputs", "windows")
        return sum(size for kind in kinds for size in self.bucket.sizes(f"{kind}/{job_id}").values())

    # -- windows of long videos --------------------------------------------------------------------------------------

    def keep_windows(self, job_id: str) -> None:
        known = self.bucket.sizes(f"windows/{job_id}")
        for file in self.windows(job_id).glob("*"):
            key = f"windows/{job_id}/{file.name}"
            if not file.name.endswith(".part") and known.get(key) != file.stat().st_size:
                self.bucket.upload(file, key)

    def partial_file(self, job_id: str) -> Path | None:
        path = self._cached(job_id, "windows") / PARTIAL  # not where the worker writes; it grows
        return path if self.bucket.download(f"windows/{job_id}/{PARTIAL}", path) else None

    def forget_windows(self, job_id: str, keep_partial: bool) -> None:
        super().forget_windows(job_id, keep_partial=False)
        self._forget(f"windows/{job_id}", f"windows/{job_id}/{PARTIAL}" if keep_partial else None)

    def _fetch_windows(self, job_id: str) -> None:
        for key in self.bucket.sizes(f"windows/{job_id}"):
            path = self.windows(job_id) / key.rpartition("/")[2]
            if not path.exists():
                self.bucket.download(key, path)

    # -- the cache ---------------------------------------------------------------------------------------------------

    @property
    def _cache(self) -> Path:
        return self.outputs / ".cache"

    def _cached(self, job_id: str, what: int | str) -> Path:
        return self._cache / f"{job_id}-{what}"

    def _cached_copy(self, key: str, path: Path) -> Path | None:
        if path.is_file():
            path.parent.touch()
        elif self.bucket.download(key, path):
            self._bound_cache()
        else:
            return None
        return path

    def _bound_cache(self) -> None:
        total = 0
        for folder in sorted(self._cache.iterdir(), key=_changed, reverse=True):
            total += sum(file.stat().st_size for file in folder.glob("*"))
            if total > CACHED_BYTES:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget(self, prefix: str, but: str | None = None) -> None:
        """What cannot be removed now costs room, and nothing else."""
        try:
            self.bucket.delete(*(key for key in self.bucket.sizes(prefix) if key != but))
        except StorageFailed as error:
            say("storage", f"{prefix} stays: {error}", level=30)


def _output(job_id: str, attempt: int, name: str) -> str:
    return f"outputs/{job_id}/{attempt}/{name}"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
