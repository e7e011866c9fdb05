"""The file of results: a line of JSON per run, appended whole; and what its lines say of each case.

    {"kind": "run", "case": {...}, "machine": {...}, "run": 1, "measured": {...}}
    {"kind": "profile", "case": {...}, "machine": {...}, "measured": {...}}      one profiled step, after the runs
    {"kind": "error", "case": {...}, "machine": {...}, "error": {"code": ..., "message": ...}}

No torch is imported here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ltx_a2v.bench.case import Case
from ltx_a2v.errors import InvalidInput, InvalidOutput

KINDS = {"run": "measured", "profile": "measured", "error": "error"}
"""What each kind of line must hold."""
FINAL_ERRORS = ("budget_too_small", "invalid_mode", "missing_extra", "invalid_request")
"""Another attempt would end in the same way."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median, least and greatest of some measurements."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        known = [value for value in values if value is not None]
        return cls(median(known), min(known), max(known), len(known)) if known else None


@dataclass
class CaseResults:
    """All that a file says of one case on one machine."""

    case: Case
    machine: dict[str, Any]
    """Of the last line."""
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What each run measured, by its number."""
    profile: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    """Of the last line, where it is an error."""

    def add(self, line: Line) -> None:
        self.machine = line["machine"]
        self.error = line.get("error")
        if line["kind"] == "run":
            self.runs[line["run"]] = line["measured"]
        elif line["kind"] == "profile":
            self.profile = line["measured"]

    def is_finished(self, runs: int) -> bool:
        """With that many runs, or an error that would come again."""
        return len(self.runs) >= runs or (self.error is not None and self.error["code"] in FINAL_ERRORS)

    def spread(self, *keys: str) -> Spread | None:
        """Of a value of every run, by its place in `measured`: `spread("steps", "stage_1", "median")`."""
        return Spread.of(at(run, *keys) for run in self.runs.values())

    def most(self, *keys: str) -> float | None:
        spread = self.spread(*keys)
        return None if spread is None else spread.most

    @property
    def one_run(self) -> dict[str, Any]:
        """Any of the runs, for what is the same in all."""
        return next(iter(self.runs.values()), {})

    @property
    def files(self) -> set[str]:
        """The digests of the runs' videos."""
        return {run["file_sha256"] for run in self.runs.values()}

    @property
    def device(self) -> str:
        return str(self.machine.get("device", "unknown"))


def at(values: Any, *keys: str) -> Any:
    """`values[a][b]`, None where something is missing on the way."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def read_results(path: Path) -> list[CaseResults]:
    """By case and device, in the order of the file. Raises `InvalidInput` for a file that `bench run` did not write."""
    found: dict[tuple[str, str], CaseResults] = {}
    for line in read_lines(path):
        case = Case.from_json(line["case"])
        key = (json.dumps(line["case"], sort_keys=True), str(line["machine"].get("device")))
        found.setdefault(key, CaseResults(case, line["machine"])).add(line)
    return list(found.values())


def read_lines(path: Path) -> list[Line]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(
            f"The results {path} cannot be read ({reason}); give a file of `ltx-a2v bench run`."
        ) from error
    return [_parsed(path, number, text) for number, text in enumerate(texts, start=1) if text.strip()]


def append_line(path: Path, line: Line) -> None:
    """In one write, so that an interruption leaves whole lines. Raises `InvalidOutput`."""
    content = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(file, content)
            if written < len(content):  # the disk is full
                os.ftruncate(file, os.fstat(file).st_size - written)
                raise OSError(28, "No space left on device")
        finally:
            os.close(file)
    except OSError as error:
        raise InvalidOutput(
            f"The results {path} cannot be written ({error.strerror}); choose another place."
        ) from error


def matching(results: Sequence[CaseResults], case: Case) -> CaseResults | None:
    return next((found for found in results if found.case == case), None)


def matching_resident(result: CaseResults, others: Sequence[CaseResults]) -> CaseResults | None:
    """The same case with another budget, in which no block is streamed."""
    for other in others:
        is_same = replace(other.case, budget=result.case.budget) == result.case and other.device == result.device
        if is_same and other.runs and at(other.one_run, "plan", "bus_bytes_per_step") == 0:
            return other
    return None


def _parsed(path: Path, number: int, text: str) -> Line:
    try:
        line = json.loads(text)
        Case.from_json(line["case"])
        complete = isinstance(line["machine"], dict) and isinstance(line[KINDS[line["kind"]]], dict)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise InvalidInput(
            f"Line {number} of {path} is not a result of `ltx-a2v bench run`; give a file that it wrote."
        )
    return line
