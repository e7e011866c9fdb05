"""Writes what the program knows into the docs, or with `--check` says whether they are up to date.

The command line's help goes into docs/command-line.md; the table of the model's files, which `ltx-a2v get` downloads,
into README.md and docs/get-the-files.md, between their markers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ltx_a2v.cli.get import HUB, LICENCES, PARTS, commands
from ltx_a2v.cli.main import build_parser

ROOT = Path(__file__).parents[1]
COMMAND_LINE, README, GET_FILES = (
    ROOT / name for name in ("docs/command-line.md", "README.md", "docs/get-the-files.md")
)
BEGIN, END = "<!-- files: made by scripts/docs.py -->\n", "<!-- end of files -->\n"


def pages() -> dict[Path, str]:
    """Each page as it should be."""
    return {
        COMMAND_LINE: "# Command line\n\nMade by `make docs` from the program itself.\n\n"
        + "\n".join(_sections(build_parser())),
        README: _with_files(README, _files()),
        GET_FILES: _with_files(GET_FILES, f"{_files()}\n{_licences()}\n{_commands_of_get()}"),
    }


def _sections(parser: argparse.ArgumentParser, above: str = "") -> Iterator[str]:
    """The help of each command, and of the commands below it."""
    for name, command in _commands(parser).items():
        yield f"## {above}{name}\n\n```\n{command.format_help()}```\n"
        yield from _sections(command, f"{above}{name} ")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def _with_files(page: Path, table: str) -> str:
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table}{END}{after}"


def _files() -> str:
    rows = []
    for part in PARTS:
        source, name = f"[{part.repository}]({HUB}/{part.repository})", part.file or f"{part.place}/"
        rows.append(f"| {source} | `{name}` | {part.gigabytes:g} GB |\n")
    total = sum(part.gigabytes for part in PARTS)
    return "| repository | file | size |\n|---|---|---:|\n" + "".join(rows) + f"| | all | {total:g} GB |\n"


def _licences() -> str:
    return "".join(f"- {name}: {licence}.\n" for name, licence in LICENCES.items())


def _commands_of_get() -> str:
    return "```\n" + "".join(f"{command}\n" for command in commands(Path("models"))) + "```\n"


def main() -> int:
    os.environ["COLUMNS"] = "110"
    os.environ["NO_COLOR"] = "1"
    stale = {page: text for page, text in pages().items() if not page.exists() or page.read_text() != text}
    for page, text in stale.items():
        if "--check" in sys.argv:
            sys.stderr.write(f"{page} is out of date: run `make docs`.\n")
        else:
            page.write_text(text)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
