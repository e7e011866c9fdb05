"""`ltx-a2v bench`: measure speed and memory, and make tables and plots of the results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltx_a2v.bench.case import HAS_QUALITY, STANDARD, Sweep, listed
from ltx_a2v.cli.early import check_model
from ltx_a2v.cli.flags import OF_VIDEOS, add_setting_flags, settings_from
from ltx_a2v.cli.output import say, write_out
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.stopping import EXIT_CODE
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.puppet import puppet_paths
from ltx_a2v.settings.model import ModelSettings

HELP = "measure speed and memory, and make tables and plots of it"
EXAMPLES = (
    ("measure two modes and two budgets", "bench run --model-dir ~/models --modes int8,none --budgets unlimited,8GiB"),
    ("the table, and whether a second run differs", "bench compare before.jsonl after.jsonl"),
)
BY_CASE = ("transformer_quantization", "vram_budget", "prompt_cache")
"""Settings that each case decides."""
FILES = ("model_dir", "checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root")
SWITCHES = ("LTX_A2V_FUSED",)
"""Environment variables that are no settings and change what is measured."""
MODES, BUDGETS, SIZES = "int8,fp8-scaled-mm,none", "unlimited,6GiB", "768x512,1024x768,1280x768"
SMALL_SIZES, SMALL_BUDGETS = "256x256", "unlimited"
"""Of the miniature that ships."""


def add_flags(parser: Parser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for name, (help_text, add, run_it) in _COMMANDS.items():
        called = f"ltx-a2v bench {name}"
        subparser = commands.add_parser(
            name, help=help_text, description=_sentence(help_text), prog=called, usage=f"{called} [flags]{_FILES[name]}"
        )
        add(subparser)
        subparser.set_defaults(bench=run_it)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def run(arguments: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = arguments.bench
    return command(arguments)


def _add_synthetic(parser: Parser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write to")
    parser.add_argument(
        "--size", choices=("full", "tiny"), default="full", help="full: 78 GB; tiny: 25 MB, for a CPU (default: full)"
    )
    parser.add_argument(
        "--second-output", type=Path, metavar="DIR", help="for the text encoder and the LoRA of the full size (35 GB)"
    )
    parser.add_argument(
        "--headers-only", action="store_true", help="full size without weights, in seconds: enough for `ltx-a2v plan`"
    )


def _synthetic(arguments: argparse.Namespace) -> int:
    prepare_libraries()

    from ltx_a2v.bench.synthetic import write_full_size, write_tiny

    if arguments.size == "tiny":
        paths = write_tiny(arguments.output)
    else:
        paths = write_full_size(arguments.output, arguments.second_output, arguments.headers_only, say)
    write_out(
        f"--checkpoint-path {paths.checkpoint} --distilled-lora-path {paths.distilled_lora} "
        f"--spatial-upsampler-path {paths.spatial_upsampler} --gemma-root {paths.gemma_root}\n"
    )
    return 0


def _add_run(parser: Parser) -> None:
    add_setting_flags(parser, ModelSettings, "model, device and loading", without=(*BY_CASE, *OF_VIDEOS))
    group = parser.add_argument_group("what is measured", "every combination of the lists, the first values first")
    group.add_argument("--modes", default=MODES, metavar="MODES", help=f"quantization modes (default: {MODES})")
    group.add_argument("--budgets", metavar="BUDGETS", help=f"VRAM budgets (default: {BUDGETS})")
    group.add_argument("--sizes", metavar="SIZES", help=f"widths and heights (default: {SIZES})")
    group.add_argument("--frames", type=int, default=97, metavar="N", help="frames, 8k+1 (default: 97)")
    group.add_argument("--steps", type=int, default=30, metavar="N", help="steps of stage 1 (default: 30)")
    if HAS_QUALITY:
        group.add_argument("--quality", default=STANDARD, metavar="QUALITIES", help="as standard,fast")
    group.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each combination (default: 3)")
    group.add_argument(
        "--cold",
        action="store_true",
        help="a new process for each run, its prompt unknown; default: weights kept and the prompt known",
    )
    group.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="stop before; the same command continues later"
    )
    group.add_argument(
        "--output",
        type=Path,
        default=Path("results.jsonl"),
        metavar="FILE",
        help="where each run is appended as a line of JSON; what it holds is not measured again "
        "(default: results.jsonl)",
    )


def _run(arguments: argparse.Namespace) -> int:
    given = settings_from(arguments, ModelSettings)
    is_puppet = not any(getattr(given, name) for name in FILES)
    settings = given.model_copy(update={"model_dir": puppet_paths().checkpoint.parent}) if is_puppet else given
    check_model(settings)
    sweep = Sweep(
        modes=listed(arguments.modes, "modes"),
        budgets=listed(arguments.budgets or (SMALL_BUDGETS if is_puppet else BUDGETS), "budgets"),
        sizes=listed(arguments.sizes or (SMALL_SIZES if is_puppet else SIZES), "sizes"),
        qualities=listed(getattr(arguments, "quality", STANDARD), "quality"),
        frames=arguments.frames,
        steps=arguments.steps,
        start="cold" if arguments.cold else "warm",
    )
    cases = sweep.cases(settings.model_paths.checkpoint.name, _other_settings(settings))
    for name, value in (("runs", arguments.runs), ("time_limit", arguments.time_limit)):
        if value is not None and not value > 0:
            raise InvalidRequest(name, value, "must be more than 0")
    prepare_libraries()

    from ltx_a2v.bench.runner import measure_all
    from ltx_a2v.quantization import parse_blocks
    from ltx_a2v.quantization.modes import format_of_mode

    parse_blocks(settings.keep_bf16_blocks)
    for mode in sweep.modes:
        format_of_mode(mode)
    same = settings.model_dump(mode="json", exclude=set(BY_CASE))
    try:
        progress = measure_all(cases, same, arguments.output, arguments.runs, arguments.time_limit, say)
    except KeyboardInterrupt:
        say(f"ltx-a2v: stopped; {arguments.output} holds the runs that ended, and the same command continues.")
        return EXIT_CODE
    left = len(cases) - len(progress.finished)
    if left:
        say(f"The time is over: {left} of {len(cases)} combinations are left, and the same command continues.")
    write_out(f"{arguments.output}: {progress.measured} runs measured, {progress.failed} combinations failed\n")
    return 1 if progress.failed == len(cases) else 0


def _other_settings(settings: ModelSettings) -> dict[str, Any]:
    """Those that change what is measured and have another value than the default one."""
    fields = ModelSettings.model_fields
    values = settings.model_dump(mode="json", exclude={*FILES, "device", *BY_CASE, *OF_VIDEOS})
    changed = {name: value for name, value in values.items() if getattr(settings, name) != fields[name].default}
    return changed | {name: os.environ[name] for name in SWITCHES if name in os.environ}


def _add_table(parser: Parser) -> None:
    parser.add_argument("results", type=Path, metavar="FILE", help="results of `bench run`")
    parser.add_argument(
        "--page", type=Path, help="write into this Markdown page, between its markers, as docs/benchmarks.md"
    )


def _table(arguments: argparse.Namespace) -> int:
    from ltx_a2v.bench.results import read_results
    from ltx_a2v.bench.table import table, write_into

    text = table(read_results(arguments.results))
    if arguments.page:
        write_into(arguments.page, text)
    else:
        write_out(text)
    return 0


def _add_plot(parser: Parser) -> None:
    parser.add_argument("results", type=Path, metavar="FILE", help="results of `bench run`")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="PREFIX-memory and PREFIX-phases, .png and .svg (default: FILE's name)",
    )


def _plot(arguments: argparse.Namespace) -> int:
    from ltx_a2v.bench.plot import plot
    from ltx_a2v.bench.results import read_results

    source: Path = arguments.results
    for path in plot(read_results(source), source, arguments.output or source.with_suffix("")):
        write_out(f"{path}\n")
    return 0


def _add_compare(parser: Parser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="results of `bench run`")
    parser.add_argument("b", type=Path, metavar="B", help="others, of the same combinations")


def _compare(arguments: argparse.Namespace) -> int:
    from ltx_a2v.bench.compare import compare
    from ltx_a2v.bench.results import read_results

    write_out(compare(read_results(arguments.a), read_results(arguments.b), (arguments.a, arguments.b)))
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[Parser], None], Callable[[argparse.Namespace], int]]] = {
    "synthetic": ("write a model with random weights", _add_synthetic, _synthetic),
    "run": ("measure generations; without a model, of the miniature that ships", _add_run, _run),
    "table": ("results as Markdown", _add_table, _table),
    "plot": ("results as PNG and SVG: seconds against memory, and time by phase", _add_plot, _plot),
    "compare": ("the figures of two files: ratios, and which exceed the spread", _add_compare, _compare),
}
_FILES = {"synthetic": "", "run": "", "table": " FILE", "plot": " FILE", "compare": " A B"}
"""What follows the flags."""
