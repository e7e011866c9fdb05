"""A table of requests: CSV with a header, or JSON lines. Its columns are the fields of a request.

Next to those fields: `size` (as `768x512`), and `name`, which names the row's video. Fields of the guidance are written
`guidance.cfg`. In CSV an empty cell is a field that is left out. Paths are relative to the table.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_a2v.errors import A2VError, InvalidInput, InvalidRequest, did_you_mean
from ltx_a2v.request import GenerationRequest, Guidance, Picture
from ltx_a2v.settings.defaults import at_home

MAX_ROWS = 100_000
OWN_COLUMNS = ("size", "name")
_GUIDANCE = tuple(f"{Guidance.prefix}{field}" for field in Guidance.model_fields)
COLUMNS = (*OWN_COLUMNS, *(f for f in GenerationRequest.model_fields if f not in ("guidance", "retake")), *_GUIDANCE)
_PATHS = ("audio", "output_path", "save_latents", "work_dir")


@dataclass(frozen=True)
class Row:
    """One video to make. `number` counts from 1, without the header."""

    number: int
    request: GenerationRequest

    @property
    def digest(self) -> str:
        """Of the request and of its files' sizes and times: a row with the same digest gives the same video."""
        files = [self.request.audio, *(picture.file for picture in self.request.pictures)]
        stamps = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
        content = self.request.model_dump_json(), stamps
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def read_rows(table: Path, outputs: Path, **defaults: object) -> list[Row]:
    """All rows, each with its own output path, by default below `outputs`. `defaults` fill what a row leaves out.

    Raises `InvalidInput`, which names the row, for a table that cannot be read and for a wrong value.
    """
    rows = [_row(number, fields, table, outputs, defaults) for number, fields in enumerate(_fields_of(table), start=1)]
    if not rows:
        raise InvalidInput(f"The table {table} has no rows; write one per video.")
    if len(rows) > MAX_ROWS:
        raise InvalidInput(f"The table {table} has {len(rows)} rows; split it: at most {MAX_ROWS} are allowed.")
    by_output: dict[Path, int] = {}
    for row in rows:
        other = by_output.setdefault(row.request.output_path.absolute(), row.number)
        if other != row.number:
            raise InvalidInput(
                f"Rows {other} and {row.number} of {table} have the same output, {row.request.output_path}; give each "
                "its own name."
            )
    return rows


def _fields_of(table: Path) -> Iterator[dict[str, Any]]:
    if table.suffix.lower() not in (".csv", ".jsonl"):
        raise InvalidInput(f"The table {table} must be a .csv or a .jsonl file.")
    try:
        text = table.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError:
        raise InvalidInput(f"The table {table} is not UTF-8; save it as UTF-8.") from None
    except OSError as error:
        raise InvalidInput(f"The table {table} cannot be read: {error.strerror}.") from error
    yield from _from_csv(table, text) if table.suffix.lower() == ".csv" else _from_json_lines(table, text)


def _from_csv(table: Path, text: str) -> Iterator[dict[str, Any]]:
    try:
        for number, cells in enumerate(csv.DictReader(text.splitlines(keepends=True), strict=True), start=1):
            if cells.pop(None, None) is not None:
                raise InvalidInput(
                    f"Row {number} of {table} has more cells than the header; put quotes around text with commas."
                )
            yield {name.strip(): text for name, text in cells.items() if text}
    except csv.Error as error:
        raise InvalidInput(f"The table {table} is not CSV: {error}.") from None


def _from_json_lines(table: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), start=1):
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise InvalidInput(f"Row {number} of {table} is not a JSON object; write one per line.")
        guidance = fields.pop("guidance", {})
        if not isinstance(guidance, dict):
            raise InvalidInput(f'Row {number} of {table}: guidance must be an object, as {{"cfg": 3}}.')
        yield {**fields, **{f"{Guidance.prefix}{name}": value for name, value in guidance.items()}}


def _row(number: int, fields: dict[str, Any], table: Path, outputs: Path, defaults: dict[str, object]) -> Row:
    try:
        for name in fields:
            if name not in COLUMNS:
                raise InvalidInput(f"there is no column {name!r}; {did_you_mean(name, COLUMNS) or _known()}")
        return Row(number, _request(number, {**defaults, **fields}, table.parent, outputs))
    except A2VError as error:
        raise InvalidInput(f"Row {number} of {table}: {error}") from error


def _request(number: int, fields: dict[str, Any], folder: Path, outputs: Path) -> GenerationRequest:
    guidance = {name.removeprefix(Guidance.prefix): fields.pop(name) for name in _GUIDANCE if name in fields}
    if isinstance(blocks := guidance.get("stg_blocks"), str):
        guidance["stg_blocks"] = re.split(r"[ ,;]+", blocks)
    name = fields.pop("name", f"{number:03d}")
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]{1,200}", name) or name.startswith("."):
        raise InvalidInput(f"name {name!r} is no file name; use letters and digits.")
    fields |= _size(fields.pop("size", None), fields)
    fields |= _pictures(fields, folder)
    fields = {key: _from(folder, value) if key in _PATHS else value for key, value in fields.items()}
    return GenerationRequest(**{"output_path": outputs / f"{name}.mp4", **fields}, guidance=Guidance(**guidance))


def _size(size: object, fields: dict[str, Any]) -> dict[str, object]:
    if size in (None, "auto"):
        return {}
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", str(size))
    if found is None:
        raise InvalidRequest("size", size, "is no size; write it as 768x512")
    if fields.keys() & {"width", "height"}:
        raise InvalidRequest("size", size, "and width or height say the same thing: give one")
    return {"width": int(found[1]), "height": int(found[2])}


def _pictures(fields: dict[str, Any], folder: Path) -> dict[str, object]:
    """`image` as on the command line (`face.png`, `end.png:last`), `images` as a list of those or of objects."""
    given = [fields.pop("image")] if "image" in fields else []
    more = fields.pop("images", ())
    if not isinstance(more, list | tuple):
        raise InvalidRequest("images", more, "must be a list of pictures")
    given += more
    pictures = [Picture(**one) if isinstance(one, dict) else Picture.parse(str(_from(folder, one))) for one in given]
    return {"images": tuple(p.model_copy(update={"file": _from(folder, str(p.file))}) for p in pictures)}


def _from(folder: Path, value: object) -> object:
    return folder / at_home(Path(value)) if isinstance(value, str) else value


def _known() -> str:
    return f"known are {', '.join(COLUMNS)}"
