"""`ltx-a2v batch`: a video for each row of a table."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_a2v.cli.early import check_files, check_model
from ltx_a2v.cli.flags import add_model_flags, settings_from
from ltx_a2v.cli.output import say, write_out
from ltx_a2v.cli.outputs import add_overwrite_flag
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.stopping import importing
from ltx_a2v.errors import InvalidInput, InvalidOutput
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.settings.model import ModelSettings

if TYPE_CHECKING:
    from ltx_a2v.batch.results import Result, Results
    from ltx_a2v.batch.rows import Row

HELP = "a video for each row of a table"
EXAMPLES = (
    ("a CSV with the columns prompt, audio and image", "batch talks.csv --model-dir ~/models/ltx --output-dir talks"),
    ("on a server that runs already", "batch talks.jsonl --server http://127.0.0.1:8892"),
)
RESULTS = "results.csv"


def add_flags(parser: Parser) -> None:
    everyday = parser.everyday
    everyday.add_argument("table", type=Path, metavar="TABLE", help="a .csv or .jsonl file; columns are request fields")
    everyday.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="where videos and results.csv go (default: named as the table)"
    )
    everyday.add_argument("--server", metavar="URL", help="make them on this server; its key is LTX_A2V_API_KEY")
    everyday.add_argument(
        "--in-flight", type=_count, default=4, metavar="N", help="jobs that a server has at once (default: 4)"
    )
    add_overwrite_flag(everyday)
    add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.batch.results import Results
    from ltx_a2v.batch.rows import read_rows

    settings = settings_from(arguments, ModelSettings)
    folder = arguments.output_dir or arguments.table.with_suffix("")
    rows = read_rows(arguments.table, folder, quality=settings.default_quality)
    _create(folder)
    results = Results(folder / RESULTS)
    for row in rows:
        check_row(row, arguments.table)
    wanted = [row for row in rows if not results.is_done(row)]
    _check_free(wanted, results, arguments.overwrite)
    say(f"{arguments.table}: {len(rows)} rows, {len(rows) - len(wanted)} are made already")
    if not arguments.server:
        check_model(settings)
    made = _on_server(wanted, arguments) if arguments.server else _here(wanted, settings)
    failed = _record(made, results, len(wanted)) if wanted else 0
    write_out(f"{len(rows)} rows: {len(rows) - failed} completed, {failed} failed; see {folder / RESULTS}\n")
    return 1 if failed else 0


def check_row(row: Row, table: Path) -> None:
    """Raises `InvalidInput`, which names the row."""
    try:
        check_files(row.request)
    except InvalidInput as error:
        raise InvalidInput(f"Row {row.number} of {table}: {error}") from error


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOutput(f"The folder {folder} cannot be made: {error.strerror}.") from error


def _check_free(rows: Sequence[Row], results: Results, overwrite: bool) -> None:
    for row in rows:
        output = row.request.output_path
        if output.is_file() and not overwrite and not results.made(output):
            raise InvalidOutput(
                f"Row {row.number}: {output} exists already; add --overwrite to replace it, or give another name."
            )


def _here(rows: Sequence[Row], settings: ModelSettings) -> Iterator[Result]:
    if not rows:
        return iter(())
    prepare_libraries()
    with importing():
        from ltx_a2v.batch import local
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.session import open_pipeline

    return local.make(open_pipeline(settings), rows, watch)


def _on_server(rows: Sequence[Row], arguments: argparse.Namespace) -> Iterator[Result]:
    from ltx_a2v.batch.server import Server, check_for_server

    check_for_server(rows)
    return Server(arguments.server, os.environ.get("LTX_A2V_API_KEY"), arguments.in_flight).make(rows)


def _record(made: Iterator[Result], results: Results, wanted: int) -> int:
    """Record each result as it comes; how many failed."""
    failed = 0
    for number, result in enumerate(made, start=1):
        results.add(result)
        failed += result.status == "failed"
        ended = f"failed: {result.error}" if result.error else f"{result.output}, {result.seconds:.1f} s"
        say(f"{number}/{wanted}: row {result.row} {ended}")
    return failed


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000")
    return count
