"""The metrics for Prometheus that `/metrics` returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_DEVICE = ("device",)
"""The name of a worker; of the memory of GPUs, one GPU; empty for a job that was on none."""
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters, gauges and histograms of one server, in bytes and seconds; all names begin with `ltx_a2v_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        place: dict[str, Any] = {"namespace": "ltx_a2v", "registry": self._registry}
        self.queued = Gauge("queue_length", "Jobs that wait.", **place)
        self.running = Gauge("running_jobs", "Jobs on the worker.", _DEVICE, **place)
        self.jobs = Counter("jobs", "Jobs that ended, by how.", [*_DEVICE, "state"], **place)
        self.failures = Counter("failures", "Jobs that failed, by kind.", [*_DEVICE, "code"], **place)
        of_phase: dict[str, Any] = {"labelnames": [*_DEVICE, "phase"], "buckets": _SECONDS, **place}
        self.phase_seconds = Histogram("phase_seconds", "Seconds per phase.", **of_phase)
        self.step_seconds = Histogram("step_seconds", "Seconds per step.", **of_phase)
        self.peak_vram = Gauge("peak_vram_bytes", "Peak device memory of the last job.", _DEVICE, **place)
        self.free_vram = Gauge("free_vram_bytes", "Device memory free now; NaN without a GPU.", _DEVICE, **place)
        self.used_vram = Gauge("used_vram_bytes", "Device memory in use; NaN without a GPU.", _DEVICE, **place)
        self.model_loaded = Gauge("model_loaded", "1 while the worker holds the model.", _DEVICE, **place)
        self.loads = Counter("loads", "Times the model was loaded.", _DEVICE, **place)
        self.cold_starts = Counter("cold_starts", "Jobs that had to load the model first.", _DEVICE, **place)
        self.worker_starts = Counter("worker_starts", "Worker processes started.", _DEVICE, **place)

    def expect(self, devices: Iterable[str]) -> None:
        """Show the counters of these workers from the start, with 0."""
        for device in devices:
            for counter in (self.loads, self.cold_starts, self.worker_starts):
                counter.labels(device)

    def completed(self, device: str, result: dict[str, Any]) -> None:
        self.finished(device, "completed")
        self.peak_vram.labels(device).set(result["peak_vram_gib"] * 2**30)

    def failed(self, device: str, code: str) -> None:
        self.finished(device, "failed")
        self.failures.labels(device, code).inc()

    def finished(self, device: str, state: str) -> None:
        self.jobs.labels(device, state).inc()

    def as_text(self) -> bytes:
        return generate_latest(self._registry)
