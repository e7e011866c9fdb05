"""Write the command line's help into docs/command-line.md, or with `--check` say whether it is up to date."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ltx_a2v.cli.main import build_parser

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"


def render() -> str:
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    sections = [f"## {name}\n\n```\n{command.format_help()}```\n" for name, command in commands.items()]
    return "# Command line\n\nMade by `make docs` from the program itself.\n\n" + "\n".join(sections)


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
