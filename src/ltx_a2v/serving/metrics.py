"""The metrics for Prometheus that `/metrics` returns."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters, gauges and histograms of one server, in bytes and seconds; all names begin with `ltx_a2v_`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        place: dict[str, Any] = {"namespace": "ltx_a2v", "registry": self._registry}
        self.queued = Gauge("queue_length", "Jobs that wait.", **place)
        self.running = Gauge("running_jobs", "Jobs on the worker.", **place)
        self.jobs = Counter("jobs", "Jobs that ended, by how.", ["state"], **place)
        self.failures = Counter("failures", "Jobs that failed, by kind.", ["code"], **place)
        self.phase_seconds = Histogram("phase_seconds", "Seconds per phase.", ["phase"], buckets=_SECONDS, **place)
        self.step_seconds = Histogram("step_seconds", "Seconds per step.", ["phase"], buckets=_SECONDS, **place)
        self.peak_vram = Gauge("peak_vram_bytes", "Peak device memory of the last job.", **place)
        self.free_vram = Gauge("free_vram_bytes", "Device memory that is free now; NaN without a GPU.", **place)
        self.used_vram = Gauge("used_vram_bytes", "Device memory used by all processes; NaN without a GPU.", **place)
        self.model_loaded = Gauge("model_loaded", "1 while the worker holds the model.", **place)
        self.loads = Counter("loads", "Times the model was loaded.", **place)
        self.cold_starts = Counter("cold_starts", "Jobs that had to load the model first.", **place)
        self.worker_starts = Counter("worker_starts", "Worker processes started.", **place)

    def completed(self, result: dict[str, Any]) -> None:
        self.finished("completed")
        self.peak_vram.set(result["peak_vram_gib"] * 2**30)

    def failed(self, code: str) -> None:
        self.finished("failed")
        self.failures.labels(code).inc()

    def finished(self, state: str) -> None:
        self.jobs.labels(state).inc()

    def as_text(self) -> bytes:
        return generate_latest(self._registry)
