"""Write the command line's help into docs/command-line.md, or with `--check` say whether it is up to date."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ltx_a2v.cli.main import build_parser

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"


def render() -> str:
    return "# Command line\n\nMade by `make docs` from the program itself.\n\n" + "\n".join(_sections(build_parser()))


def _sections(parser: argparse.ArgumentParser, above: str = "") -> Iterator[str]:
    """The help of each command, and of the commands below it."""
    for name, command in _commands(parser).items():
        yield f"## {above}{name}\n\n```\n{command.format_help()}```\n"
        yield from _sections(command, f"{above}{name} ")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def main() -> int:
    os.environ["COLUMNS"] = "110"
    os.environ["NO_COLOR"] = "1"
    text = render()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    sys.stderr.write(f"{PAGE} is out of date: run `make docs`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
