"""The parser that every command uses."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from ltx_a2v.cli.output import write_out
from ltx_a2v.errors import did_you_mean

EVERYDAY = "everyday"


class Parser(argparse.ArgumentParser):
    """Reports mistakes in one sentence without the usage, with what may have been meant; flags cannot be abbreviated.

    In its help the group of everyday flags comes first, then the expert groups, then what every command has.
    """

    def __init__(self, **options: Any) -> None:
        shared = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**options, **shared})
        self.everyday = self.add_argument_group(EVERYDAY)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Unknown flags are reported by the command that got them, which knows what is near."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return parsed, []

    def error(self, message: str) -> NoReturn:
        see = f" See {self.prog} --help." if message.endswith("?") else f"; see {self.prog} --help."
        self.exit(2, f"{self.prog}: {message}{see}\n")

    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            write_out(self.format_help())

    def format_help(self) -> str:
        self._action_groups.sort(key=lambda group: (group is self._optionals, group is not self.everyday))
        return super().format_help()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Instead of argparse's: with what may have been meant."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        name = argparse._get_action_name(action) or "command"
        hint = did_you_mean(str(value), known) or f"choose one of {', '.join(known)}"
        self.error(f"{name} {value!r} does not exist; {hint}")

    def _unknown(self, given: str) -> str:
        if not given.startswith("-"):
            return f"{given!r} is not expected here: values follow their flag, in quotes where they hold spaces"
        flag = given.partition("=")[0]
        names = (known.strip("-") for known in self._option_string_actions)  # dashes would make all alike
        hint = did_you_mean(flag.strip("-"), names).replace("'", "--", 1).replace("'", "")
        return f"there is no flag {flag}{f'; {hint}' * bool(hint)}"


class ShowVersion(argparse.Action):
    """`--version`: of this package and of those that decide what it can do, from their metadata."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "nargs": 0, "help": "show versions and exit"})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        write_out(versions() + "\n")
        parser.exit()


def versions() -> str:
    """As `ltx-a2v 0.1.0, Python 3.11.9, torch 2.11.0, diffusers 0.42.1`."""
    packages = [("torch", "torch"), ("diffusers", "diffusers"), ("transformers", "transformers")]
    shown = [f"ltx-a2v {_version('ltx-a2v')}", f"Python {sys.version.split()[0]}"]
    return ", ".join([*shown, *(f"{name} {_version(package)}" for name, package in packages)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
