"""A scheduler in the test's own process, with a real worker: the test turns its clock and fills its disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltx_a2v.errors import StorageFailed
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import Job, JobStore, new_job_id
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.scheduler import Scheduler
from ltx_a2v.settings.server import ServerSettings
from tests.serving.conftest import wav


class TurnedClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        end = self.time + seconds
        while not event.is_set() and self.time < end:
            await asyncio.sleep(0.001)


class FullDisk(JobStore):
    """A job store whose disk is full while `is_full`: no job's end can be written. While `is_away` it cannot be reached
    by the owner of a running job."""

    is_full = False
    is_away = False

    def beat(self, *arguments: Any) -> Job | None:
        if self.is_away:
            raise StorageFailed("The database cannot be used now.")
        return super().beat(*arguments)

    def _finish(self, *arguments: Any, **columns: Any) -> None:
        if self.is_full:
            raise StorageFailed("The job records cannot be written: the server's disk is full.")
        super()._finish(*arguments, **columns)


class Bench:
    """`clock` is a `TurnedClock` unless another is given; `options` go to the scheduler."""

    def __init__(
        self,
        folder: Path,
        clock: Any = None,
        options: dict[str, Any] | None = None,
        store: FullDisk | None = None,
        folders: Folders | None = None,
        **settings: Any,
    ) -> None:
        self.settings = ServerSettings(output_dir=folder, **({"device": "cpu"} | settings))
        self.folders = folders or Folders(folder, folder / "state")
        self.folders.create()
        (folder / "audio").write_bytes(wav())
        self.clock = clock or TurnedClock()
        self.store = store or FullDisk(folder / "jobs.sqlite3")
        self.scheduler = Scheduler(self.settings, self.store, self.folders, Metrics(), self.clock, **(options or {}))
        self._audio = str(folder / "audio")

    async def __aenter__(self) -> Bench:
        await self.scheduler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.scheduler.stop()
        self.store.close()

    def add(self, prompt: str = "x", keep_alive: str | None = None, **fields: Any) -> Job:
        request = {"prompt": prompt, "audio": self._audio, "num_frames": 9, "num_inference_steps": 1, **fields}
        job = self.store.add(new_job_id(), request, keep_alive, False, 10)
        self.scheduler.wake()
        return job

    @property
    def worker(self) -> Any:
        """Of the first consumer."""
        return self.scheduler.consumers[0].supervisor.worker

    def state(self, job: Job) -> str:
        return (self.store.get(job.id) or job).state

    async def run_job(self, keep_alive: str | None = None) -> None:
        job = self.add(keep_alive=keep_alive)
        await self.until(lambda: self.state(job) == "completed" and not self.scheduler.running)

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)

    async def stays_loaded(self) -> bool:
        await asyncio.sleep(0.05)
        return self.scheduler.is_loaded
