"""The command line: parses flags, runs a command, and reports its errors with the names of flags.

Heavy libraries are imported by the commands that need them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ltx_a2v.cli import (
    batch,
    bench,
    check,
    cluster,
    demo,
    doctor,
    generate,
    get,
    inspect,
    plan,
    quantize,
    retake,
    serve,
)
from ltx_a2v.cli.flags import flag_name
from ltx_a2v.cli.output import say
from ltx_a2v.cli.parser import Parser, ShowVersion
from ltx_a2v.cli.stopping import EXIT_CODE, STOPPED, interrupt, on_stop
from ltx_a2v.errors import A2VError
from ltx_a2v.versions import NEWEST

COMMANDS = {
    "generate": generate,
    "quantize": quantize,
    "serve": serve,
    "cluster": cluster,
    "batch": batch,
    "retake": retake,
    "plan": plan,
    "demo": demo,
    "check": check,
    "inspect": inspect,
    "get": get,
    "doctor": doctor,
    "bench": bench,
}
"""Each a module with `HELP`, `EXAMPLES` (what for, command), `add_flags(parser)` and `run(arguments)`, which returns
the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a mistake, 130 when stopped."""
    try:
        on_stop(interrupt)
        arguments = build_parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except A2VError as error:
        say(f"ltx-a2v: {error.worded(flag_name)}")
        return error.exit_code
    except KeyboardInterrupt:
        say(STOPPED)
        return EXIT_CODE


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ltx-a2v",
        description=f"One image + speech + a prompt -> a lip-synced video, with {NEWEST.name}.",
        epilog="examples:\n  # no model files, no GPU: a drawn face speaks\n  ltx-a2v demo\n"
        "  # what to download, then what fits on this machine\n  ltx-a2v get --dir ~/models/ltx\n"
        "  ltx-a2v plan --model-dir ~/models/ltx\n",
    )
    parser.add_argument("--version", action=ShowVersion)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            usage=f"{parser.prog} {name} [flags]",
            epilog=_examples(command.EXAMPLES),
        )
        command.add_flags(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["examples:", *(f"  # {what}\n  ltx-a2v {command}" for what, command in examples)])


if __name__ == "__main__":
    sys.exit(main())
