"""A process that measures cases with one mode and budget. `runner` writes jobs to its stdin and reads from its stdout.

The first line of stdin is `{"settings": {...}, "cold": bool, "started": seconds}`. Each other line is a job, which one
line answers: `{"machine": {...}, "measured": {...}}` or `{"error": {...}}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ltx_a2v.errors import A2VError, OutOfMemory
from ltx_a2v.hardware.environment import prepare_libraries

_WARM_UP_STEPS = 2


class Worker:
    """Opens the model once, and measures jobs on it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._pipeline: Any = None
        self._machine: dict[str, Any] = {}
        self._warm_for: object = None

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        from ltx_a2v.bench.case import Case

        case = Case.from_json(job["case"])
        try:
            measured = self._profile(case) if job["job"] == "profile" else self._run(case)
        except A2VError as error:
            return {"error": error.as_json(), "exit_code": error.exit_code}
        return {"machine": self._machine, "measured": measured}

    def _run(self, case: Any) -> dict[str, Any]:
        from ltx_a2v.bench.measure import measure_run, rates

        if self._given["cold"]:
            self._open(case)
            start = round(time.time() - self._given["started"], 4)
            measured = measure_run(self._pipeline, case)
            self._measure_speeds()  # not before: nothing may be warm when the generation starts
            measured |= {"start_seconds": start, "seconds": round(start + measured["seconds"], 4)}
        else:
            measured = measure_run(self._warm(case), case)
        return measured | rates(self._pipeline, case, measured["steps"], self._machine)

    def _warm(self, case: Any) -> Any:
        """The pipeline with its weights where the plan keeps them, after a short generation like the case's."""
        if self._pipeline is None:
            self._open(case)
            self._measure_speeds()
        pipeline = self._pipeline
        if self._warm_for != case:
            pipeline.keep = "device"
            with TemporaryDirectory() as folder:
                request = case.request(Path(folder))
                try:
                    pipeline.prepare(request)
                except OutOfMemory:  # not everything fits at once; the results say what is kept where
                    pipeline.keep = "host"
                    pipeline.prepare(request)
                few = min(_WARM_UP_STEPS, case.steps)
                pipeline.run(request.model_copy(update={"num_inference_steps": few}))
            _empty_cache(pipeline.device)
            self._warm_for = case
        return pipeline

    def _profile(self, case: Any) -> dict[str, Any]:
        from ltx_a2v.bench.busy import profile_step

        return profile_step(self._warm(case), case)

    def _open(self, case: Any) -> None:
        from ltx_a2v.bench.machine import describe
        from ltx_a2v.session import open_pipeline
        from ltx_a2v.settings.model import ModelSettings

        update = {"transformer_quantization": case.mode, "vram_budget": case.budget, "reproducible": True}
        settings = ModelSettings(**{**self._given["settings"], **update, "prompt_cache": not self._given["cold"]})
        self._pipeline = open_pipeline(settings)
        self._machine = describe(self._pipeline.device)

    def _measure_speeds(self) -> None:
        from ltx_a2v.bench.machine import measure_speeds

        self._machine |= measure_speeds(self._pipeline.device, self._pipeline.model.dtype)
        _empty_cache(self._pipeline.device)


def _empty_cache(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the runner ends this process
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    prepare_libraries()
    worker = Worker(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        replies.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
