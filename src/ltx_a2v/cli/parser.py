"""The parser that every command uses."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ltx_a2v.cli.output import write_out


class Parser(argparse.ArgumentParser):
    """Reports mistakes in one sentence without the usage; flags cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")

    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            write_out(self.format_help())
