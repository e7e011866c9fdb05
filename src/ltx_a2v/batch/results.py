"""The table of results: a line per row of the batch, rewritten whole after each video, read again by the next run."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from ltx_a2v.batch.rows import Row
from ltx_a2v.errors import InvalidInput
from ltx_a2v.media.output_file import write_whole

Status = Literal["completed", "failed"]


@dataclass(frozen=True)
class Result:
    """How a row ended. `digest` is the row's then; `seconds` how long it took, on a server since it was sent."""

    row: int
    status: Status
    output: str
    seconds: float
    seed: int
    digest: str
    error: str = ""


class Results:
    """The results of one batch, in `file`. Raises `InvalidInput` where the file is something else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._by_row = _read(file) if file.exists() else {}

    def is_done(self, row: Row) -> bool:
        """Whether this row's video was made from what the row says now, and is still there."""
        known = self._by_row.get(row.number)
        if known is None or known.status != "completed":
            return False
        return known.digest == row.digest and row.request.output_path.is_file()

    def made(self, output: Path) -> bool:
        """Whether an earlier run of this batch wrote that file, so that it may be replaced."""
        return any(known.status == "completed" and known.output == str(output) for known in self._by_row.values())

    def add(self, result: Result) -> None:
        """Raises `InvalidOutput` where the file cannot be written."""
        self._by_row[result.row] = result
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_HEADER)
        table.writerows(asdict(known).values() for _, known in sorted(self._by_row.items()))
        write_whole(self._file, text.getvalue().encode())


_HEADER = [field.name for field in fields(Result)]


def _read(file: Path) -> dict[int, Result]:
    try:
        header, *lines = csv.reader(file.read_text(encoding="utf-8").splitlines(keepends=True))
        results = [_result(dict(zip(header, line, strict=True))) for line in lines if header == _HEADER]
        if header != _HEADER:
            raise ValueError
    except (OSError, ValueError, TypeError, csv.Error):
        raise InvalidInput(
            f"{file} is not a table of results of this command; move it away, or choose another --output-dir."
        ) from None
    return {result.row: result for result in results}


def _result(cells: dict[str, str]) -> Result:
    return Result(
        row=int(cells["row"]),
        status="completed" if cells["status"] == "completed" else "failed",
        output=cells["output"],
        seconds=float(cells["seconds"]),
        seed=int(cells["seed"]),
        digest=cells["digest"],
        error=cells["error"],
    )
