"""The state of a running job that is not in its record: progress, logs and metrics from its events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from ltx_a2v.serving.jobs.progress import Estimates, Progress
from ltx_a2v.serving.jobs.records import Job
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.changes import Changes
from ltx_a2v.serving.work.client import Message, WorkerClient


@dataclass
class Running:
    """A job from its claim to its end."""

    job: Job
    progress: Progress
    step_began: float = 0.0
    preview: str | None = None
    """The newest rough picture of the video, a JPEG in base64."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    """Its work is done or has failed; what is left is to record that."""
    lost: bool = False
    """Its lease is another server's, so nothing about it is recorded here."""


class Observer:
    """Handles a worker's events. `running` is None while the model is loaded on request."""

    def __init__(self, device: str, model_id: str, metrics: Metrics, estimates: Estimates, changes: Changes) -> None:
        self._device = device
        self._model_id = model_id
        self._metrics = metrics
        self._estimates = estimates
        self._changes = changes

    def take(self, running: Running | None, worker: WorkerClient, event: Message) -> None:
        match event["event"]:
            case "WindowStarted" if running:
                running.progress.start_window(event["window"], event["windows"])
                say("window", f"{event['window']}/{event['windows']}", id=running.job.id)
            case "PhaseStarted" if running:
                running.progress.start_phase(event["phase"], event["steps"])
                running.step_began = time.monotonic()
            case "StepFinished" if running:
                running.progress.finish_step(event["step"], event["steps"])
                now = time.monotonic()
                self._metrics.step_seconds.labels(self._device, event["phase"]).observe(now - running.step_began)
                running.step_began = now
            case "Previewed" if running:
                running.preview = event["jpeg"]
            case "PhaseFinished":
                self._phase_finished(running, worker, event)
            case "Planned":
                say("plan", event["message"], device=self._device)
            case "Notice":
                say("notice", event["message"], device=self._device)
        if running:
            self._changes.publish(running.job.id)

    def _phase_finished(self, running: Running | None, worker: WorkerClient, event: Message) -> None:
        phase = event["phase"]
        if phase == "load":
            worker.loaded = True
            self._metrics.loads.labels(self._device).inc()
            self._estimates.learn_load(event["seconds"])
            say("load", self._model_id, seconds=event["seconds"], device=self._device)
        if running:
            running.progress.finish_phase(phase)
        self._metrics.phase_seconds.labels(self._device, phase).observe(event["seconds"])
        say("timing", f"{phase}={event['seconds']:.2f}s", device=self._device)
        if event["reserved_gib"]:
            allocated, reserved = f"{event['allocated_gib']:.2f}GiB", f"{event['reserved_gib']:.2f}GiB"
            say("cuda", f"after {phase}:", allocated=allocated, reserved=reserved, device=self._device)
