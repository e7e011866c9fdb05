"""Residency over time: how long a worker keeps the loaded model after its last job.

The keep-alive starts when a job ends. When it is over, the worker process ends, so that the GPU holds nothing of ours.
Counted on a monotonic clock: setting the date neither unloads the model nor keeps it.
"""

from __future__ import annotations

import time

from ltx_a2v.serving.work.client import WorkerClient
from ltx_a2v.serving.work.waiting import Clock
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER, parse_duration


class KeepAlive:
    """The keep-alive of one worker."""

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._end = NEVER

    def seconds(self, asked: str | None) -> float:
        """What a job asked for, else the server's setting."""
        return self._settings.keep_alive_seconds if asked is None else parse_duration(asked)

    def seconds_by_hand(self, asked: str | None) -> float:
        """As `seconds`, but who loads the model by hand wants it loaded, even where jobs do not keep it."""
        default = parse_duration(ServerSettings.model_fields["keep_alive"].default)
        return self.seconds(asked) or (0.0 if asked is not None else default)

    def hold(self) -> None:
        """A job runs, or nothing is loaded: there is no end."""
        self._end = NEVER

    def start(self, worker: WorkerClient | None, seconds: float) -> None:
        """From now on. A worker that worked and holds no model has no reason to stay."""
        if worker is None or not worker.used:
            self.hold()
        else:
            self._end = self._clock.now() + (seconds if worker.loaded else 0.0)

    @property
    def is_over(self) -> bool:
        return self._clock.now() >= self._end

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._end - self._clock.now())

    @property
    def expires_at(self) -> float:
        """Unix time, by what the wall clock says now; `NEVER` without an end."""
        return time.time() + self.seconds_left
