"""Measures cases in worker processes, and appends each result to a file as soon as it is there.

A worker serves neighbouring cases of one mode and budget; a cold run has a worker of its own. Whatever ends a worker
(an error, a signal, the time limit) leaves the results before it complete. Cases that the file has already are left
out, so the same command continues where it was stopped. No torch is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ltx_a2v.bench.case import Case, by_group
from ltx_a2v.bench.device import device_name
from ltx_a2v.bench.results import CaseResults, Line, append_line, at, matching, read_results
from ltx_a2v.errors import InvalidInput, InvalidModel, InvalidOutput, InvalidRequest, from_json
from ltx_a2v.hardware.host_memory import death_by_signal
from ltx_a2v.media.output_file import check_output_file

MARGIN = 5.0
"""Seconds before the time limit at which a worker is ended: its memory takes time to be freed."""
MARGIN_SHARE = 0.1
"""At most this share of the limit."""
MISTAKES = {kind.__name__ for kind in (InvalidInput, InvalidModel, InvalidRequest)}
"""Errors of a worker that are about all cases: the files, the device or a setting."""


@dataclass
class Progress:
    """How far the measuring is; `say` hears a line about each result."""

    say: Callable[[str], None]
    total: int
    runs: int
    """How many runs each case is to have."""
    measured: int = 0
    failed: int = 0
    finished: list[Case] = field(default_factory=list)


def measure_all(
    cases: Sequence[Case],
    settings: dict[str, Any],
    output: Path,
    runs: int,
    time_limit: float | None,
    say: Callable[[str], None],
) -> Progress:
    """Measure what `output` lacks, until all is there or `time_limit` seconds are over.

    `settings` are of `ModelSettings`. Raises `InvalidModel` where the files are no model, and `InvalidOutput` where the
    results cannot be written or are of another machine.
    """
    deadline = None if time_limit is None else time.monotonic() + time_limit - min(MARGIN, MARGIN_SHARE * time_limit)
    device = device_name(settings.get("device"))
    known = _known(output, device)
    progress = Progress(say, len(cases), runs)
    waiting = [case for case in cases if not _is_finished(known, case, runs)]
    progress.finished += [case for case in cases if case not in waiting]
    for group in by_group(waiting):
        with _Session(group[0].start == "cold", settings, output, device, deadline, progress) as session:
            for case in group:
                result = matching(known, case) or CaseResults(case, {"device": device})
                session.measure(case, [number for number in range(1, runs + 1) if number not in result.runs])
            session.profile()
        if session.is_late:
            break
    return progress


def _known(output: Path, device: str) -> list[CaseResults]:
    """What the file holds already. A place that cannot be written is found here and not after the first run."""
    results = read_results(output) if output.exists() else []
    others = {result.device for result in results} - {device}
    if others:
        raise InvalidOutput(
            f"The results {output} were measured on {', '.join(sorted(others))}, and this machine has {device}; "
            "choose another file."
        )
    check_output_file(output, None, "results.jsonl")
    return results


def _is_finished(known: Sequence[CaseResults], case: Case, runs: int) -> bool:
    result = matching(known, case)
    return result is not None and result.is_finished(runs)


class _Session:
    """The cases of one group, and the worker that measures them while there is one."""

    def __init__(
        self,
        cold: bool,
        settings: dict[str, Any],
        output: Path,
        device: str,
        deadline: float | None,
        progress: Progress,
    ) -> None:
        self._cold = cold
        self._settings = settings
        self._output = output
        self._device = device
        self._deadline = deadline
        self._progress = progress
        self._worker: _Worker | None = None
        self._to_profile: list[Case] = []
        self._folder = TemporaryDirectory(prefix="ltx-a2v-bench-")

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    @property
    def is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def measure(self, case: Case, numbers: Sequence[int]) -> None:
        """The runs with these numbers. An error of the case is recorded; those after it are not tried."""
        for number in numbers:
            reply = self._ask({"job": "run", "case": case.as_json()})
            if reply is None:
                return
            self._record(case, number, reply)
            if "error" in reply:
                return
        self._progress.finished.append(case)
        if not self._cold:
            self._to_profile.append(case)

    def profile(self) -> None:
        """The measured cases; last, since a profiler may slow down what comes after it."""
        for case in self._to_profile if self._worker is not None else ():
            reply = self._ask({"job": "profile", "case": case.as_json()})
            if reply is None or "error" in reply:
                return
            self._append(case, {"kind": "profile", "machine": reply["machine"], "measured": reply["measured"]})

    def _ask(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The reply of the worker, or an error in its place where it died; None where the time is over."""
        if self.is_late:
            return None
        if self._worker is None:
            self._worker = _Worker(self._settings, self._cold, self._folder.name)
        with self._worker.killed_at(self._deadline):
            reply = self._worker.ask(job)
        if reply is None:
            died = self._worker.death
            self._end()
            return None if self.is_late else {"error": {"code": "worker_failed", "message": died}}
        if self._cold:
            self._end()
        return reply

    def _record(self, case: Case, number: int, reply: dict[str, Any]) -> None:
        progress = self._progress
        place = f"[{len(progress.finished) + 1}/{progress.total}] {case}"
        if "error" not in reply:
            line = {"kind": "run", "run": number, "machine": reply["machine"], "measured": reply["measured"]}
            self._append(case, line)
            progress.measured += 1
            progress.say(f"{place}, run {number} of {progress.runs}: {_said(reply['measured'])}")
            return
        error = reply["error"]
        if error.get("kind") in MISTAKES:
            raise from_json(error)
        message = str(from_json(error)) if "kind" in error else error["message"]
        self._append(
            case,
            {
                "kind": "error",
                "machine": {"device": self._device},
                "error": {"code": error["code"], "message": message},
            },
        )
        progress.failed += 1
        progress.finished.append(case)
        progress.say(f"{place}: {message}")

    def _append(self, case: Case, line: Line) -> None:
        append_line(self._output, {"kind": line["kind"], "case": case.as_json(), **line})

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """The process of `bench.worker`."""

    def __init__(self, settings: dict[str, Any], cold: bool, folder: str) -> None:
        """Its temporary files go to `folder`."""
        started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ltx_a2v.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": folder},
        )
        self._write({"settings": settings, "cold": cold, "started": started})

    def ask(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """None where the process has died."""
        self._write(job)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    @property
    def death(self) -> str:
        """A sentence about how the process ended."""
        status = self._process.wait()
        how = death_by_signal(-status) if status < 0 else f"ended with status {status}; its messages say why"
        return f"The process that measured this {how}."

    @contextmanager
    def killed_at(self, deadline: float | None) -> Iterator[None]:
        if deadline is None:
            yield
            return
        timer = threading.Timer(max(deadline - time.monotonic(), 0.0), self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def end(self) -> None:
        self._process.kill()  # nothing of it is needed any more, and freeing host memory in order takes seconds
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _write(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died, and the reply says so
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()


def _said(measured: dict[str, Any]) -> str:
    steps = [at(measured, "steps", stage, "median") for stage in ("stage_1", "stage_2")]
    said = ", ".join("-" if seconds is None else f"{seconds:.3f}" for seconds in steps)
    return f"{measured['seconds']:.2f} s, steps {said} s"
