"""How long a worker keeps the loaded model after its last job.

The keep-alive starts when a job ends. When it expires, the worker process ends, which frees all its GPU memory. It is
counted on a monotonic clock, so setting the date does not change it.
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
        """The keep-alive of the job in seconds, else the server's setting."""
        return self._settings.keep_alive_seconds if asked is None else parse_duration(asked)

    def seconds_by_hand(self, asked: str | None) -> float:
        """As `seconds`; where the server's setting is 0, the default, as a model loaded on request should stay."""
        default = parse_duration(ServerSettings.model_fields["keep_alive"].default)
        return self.seconds(asked) or (0.0 if asked is not None else default)

    def hold(self) -> None:
        """Stop the countdown: a job runs, or nothing is loaded."""
        self._end = NEVER

    def start(self, worker: WorkerClient | None, seconds: float) -> None:
        """Start the countdown. A worker that has worked but holds no model ends at once."""
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
        """Unix time, by the wall clock of now; `NEVER` where there is no countdown."""
        return time.time() + self.seconds_left
