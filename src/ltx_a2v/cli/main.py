"""The command line: parse, call, print.

Heavy libraries are imported by the commands that need them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from pydantic import BaseModel

from ltx_a2v.cli.flags import add_setting_arguments, settings_from
from ltx_a2v.cli.stopping import EXIT_CODE, STOPPED, importing, interrupt, on_stop
from ltx_a2v.errors import A2VError, BudgetTooSmall
from ltx_a2v.events import Done, Event, GenerationResult
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.request import GenerationRequest, Guidance
from ltx_a2v.settings.defaults import cache_dir
from ltx_a2v.settings.model import QUANTIZATION_MODES, ModelSettings
from ltx_a2v.settings.server import ServerSettings

MODEL_TITLE = "model, device and loading"
PLANNED_FIELDS = ("width", "height", "num_frames", "frame_rate", "num_inference_steps")
"""What the memory of a request depends on, and how long it takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a mistake, 130 when stopped."""
    try:
        on_stop(interrupt)
        arguments = build_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except A2VError as error:
        _say(f"ltx-a2v: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say(STOPPED)
        return EXIT_CODE


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ltx-a2v", description="One image + speech + a prompt -> a lip-synced video, with LTX-2.3.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    generate = commands.add_parser("generate", help="make one video")
    _add_field_arguments(generate, GenerationRequest, "request")
    _add_field_arguments(generate, Guidance, "guidance")
    add_setting_arguments(generate, ModelSettings, MODEL_TITLE)
    _add_report_argument(generate)
    generate.set_defaults(command=_generate)

    quantize = commands.add_parser("quantize", help="write a checkpoint once as a quantization mode stores it")
    quantize.add_argument("--checkpoint-path", type=Path, required=True, help="the bf16 checkpoint")
    quantize.add_argument("--transformer-quantization", required=True, metavar="MODE", help=QUANTIZATION_MODES)
    quantize.add_argument(
        "--output-path", type=Path, required=True, help="the .safetensors file to write; one that is there is replaced"
    )
    quantize.add_argument(
        "--keep-bf16-blocks",
        default="",
        metavar="BLOCKS",
        help=ModelSettings.model_fields["keep_bf16_blocks"].description,
    )
    quantize.add_argument("--device", help="where to compute: cuda, cuda:1 or cpu (default: a GPU where there is one)")
    quantize.add_argument(
        "--report",
        nargs="?",
        choices=("text", "json"),
        const="text",
        help="measure each layer's error meanwhile, and print it by kind of layer, with the worst layers",
    )
    quantize.set_defaults(command=_quantize)

    serve = commands.add_parser("serve", help="take requests over HTTP, and give the GPU back in between")
    add_setting_arguments(serve, ModelSettings, MODEL_TITLE)
    add_setting_arguments(serve, ServerSettings, "server")
    serve.set_defaults(command=_serve)

    plan = commands.add_parser("plan", help="what fits in how much memory, before anything is loaded")
    _add_field_arguments(plan, GenerationRequest, "request", only=PLANNED_FIELDS)
    _add_field_arguments(plan, Guidance, "guidance")
    add_setting_arguments(plan, ModelSettings, MODEL_TITLE)
    plan.add_argument("--modes", default="", metavar="MODES", help="compare several modes, as int8,fp8-cast")
    plan.add_argument("--coexist", metavar="BYTES", help="what other services need of the GPU, as 30GiB")
    plan.add_argument(
        "--measure",
        action="store_true",
        help="measure this machine for some seconds, and predict how long a video takes",
    )
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    plan.set_defaults(command=_plan)

    demo = commands.add_parser("demo", help="make a short video with a miniature model, to see that all works")
    demo.add_argument("--output-path", type=Path, default=Path("demo.mp4"), help="where to write the mp4")
    _add_report_argument(demo)
    demo.set_defaults(command=_demo)
    return parser


class _Parser(argparse.ArgumentParser):
    """Mistakes in one sentence instead of the whole usage; flags are never guessed from their beginnings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")

    def print_help(self, file: Any = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            _print(self.format_help())


def _add_field_arguments(
    parser: argparse.ArgumentParser, model: type[BaseModel], title: str, only: tuple[str, ...] = ()
) -> None:
    """One flag per field of a request model; text is left for the model to read and judge."""
    group = parser.add_argument_group(title)
    for name, field in model.model_fields.items():
        if not isinstance(field.json_schema_extra, dict) or (only and name not in only):
            continue
        shown = "" if field.is_required() or field.default is None else f" (default: {_shown(field.default)})"
        group.add_argument(
            str(field.json_schema_extra["flag"]),
            dest=f"{title}.{name}",
            required=field.is_required(),
            default=argparse.SUPPRESS,
            metavar="N" if name == "stg_blocks" else name.upper(),
            nargs="*" if name == "stg_blocks" else None,
            help=f"{field.description}{shown}".replace("%", "%%"),
        )


def _shown(default: Any) -> str:
    return default if len(str(default)) < 60 else f"{str(default)[:50]} ..."


def _add_report_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", choices=("text", "json"), default="text", help="what to print when done")


def _generate(arguments: argparse.Namespace) -> int:
    request = GenerationRequest(**_fields(arguments, "request"), guidance=Guidance(**_fields(arguments, "guidance")))
    settings = settings_from(arguments, ModelSettings)
    _ = settings.model_paths  # found, or told what is missing, before anything heavy is imported
    prepare_libraries()

    with importing():
        from ltx_a2v.opening import open_pipeline

    _print_report(_watch(open_pipeline(settings).generate(request)), arguments.report)
    return 0


def _quantize(arguments: argparse.Namespace) -> int:
    prepare_libraries()

    from ltx_a2v.conversion.convert import quantize_file
    from ltx_a2v.pipeline import choose_device
    from ltx_a2v.quantization import parse_blocks

    report = _show(
        quantize_file(
            arguments.checkpoint_path,
            arguments.transformer_quantization,
            arguments.output_path,
            parse_blocks(arguments.keep_bf16_blocks),
            device=choose_device(arguments.device),
            measure_errors=arguments.report is not None,
        )
    )
    if arguments.report == "json":
        _print(json.dumps(report.as_json()) + "\n")
    else:
        with _stdout() as stdout:
            report.print(stdout)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from ltx_a2v.serving.main import serve

    return serve(settings_from(arguments, ServerSettings))


def _plan(arguments: argparse.Namespace) -> int:
    request = GenerationRequest(
        prompt="",
        audio=Path(),
        **{"num_frames": 97} | _fields(arguments, "request"),
        guidance=Guidance(**_fields(arguments, "guidance")),
    )
    settings = settings_from(arguments, ModelSettings)
    prepare_libraries()

    from ltx_a2v.cli.plan_table import LADDER, best, print_table, try_budget
    from ltx_a2v.hardware.budget import Budget, beside
    from ltx_a2v.opening import open_pipeline

    settings.dtype = settings.dtype or "bfloat16"
    ladder: tuple[str, ...] = LADDER if settings.vram_budget == "auto" else (settings.vram_budget,)
    rows, speeds = [], {}
    for mode in [m.strip() for m in arguments.modes.split(",") if m.strip()] or [settings.transformer_quantization]:
        settings.transformer_quantization = mode
        pipeline = open_pipeline(settings)
        if arguments.coexist:
            ladder = (beside(arguments.coexist, pipeline.device, settings.budget.headroom),)
        name = mode or "as the file"
        predict = None
        if arguments.measure:
            measured = speeds[name] = pipeline.measure(request)
            predict = lambda plan, p=pipeline, s=measured: p.predict(request, plan, s)  # noqa: E731
        for budget in ladder:
            make = lambda p=pipeline, b=budget: p.plan_for(request, Budget(b))  # noqa: E731
            rows.append(try_budget(name, budget, make, predict))
    if arguments.json:
        _print(json.dumps([row.as_json() for row in rows]) + "\n")
    else:
        with _stdout():
            print_table(rows, speeds, f"{request.width}x{request.height}, {request.num_frames} frames")
        chosen_row = best(rows) if arguments.coexist else None
        if chosen_row is not None:
            mode = f" --transformer-quantization {chosen_row.mode}" * bool(arguments.modes)
            _print(f"Beside {arguments.coexist} of others: --vram-budget {chosen_row.budget}{mode}\n")
    return 0 if best(rows) else BudgetTooSmall.exit_code


def _demo(arguments: argparse.Namespace) -> int:
    examples = _examples()
    request = GenerationRequest(
        prompt="A friendly robot faces the camera and speaks.",
        image=examples / "robot.png",
        audio=examples / "speech.wav",
        output_path=arguments.output_path,
        width=384,
        height=256,
        num_inference_steps=8,
    )
    prepare_libraries()

    with importing():
        from ltx_a2v.miniature import ensure_miniature
        from ltx_a2v.pipeline import A2VPipeline

    pipeline = A2VPipeline.open(ensure_miniature(cache_dir() / "miniature"), device="cpu")
    _print_report(_watch(pipeline.generate(request)), arguments.report)
    if arguments.report == "text":
        _say("The miniature model has random weights and paints texture; the real files paint people (see README).")
    return 0


def _examples() -> Path:
    """In the wheel inside the package, in a checkout at its top."""
    here = Path(__file__).parents[1]
    return here / "examples" if (here / "examples").is_dir() else here.parents[1] / "examples"


def _fields(arguments: argparse.Namespace, title: str) -> dict[str, Any]:
    given = vars(arguments).items()
    return {name.removeprefix(f"{title}."): value for name, value in given if name.startswith(f"{title}.")}


def _watch(events: Generator[Event]) -> GenerationResult:
    """Show the events on stderr until the last one."""
    from ltx_a2v.cli.progress import progress_on_stderr

    with closing(events) as stream, progress_on_stderr() as display:
        for event in stream:
            if isinstance(event, Done):
                return event.result
            display.show(event)
    raise AssertionError("a generation ends with Done")


def _show(work: Generator[Event, None, Any]) -> Any:
    """Show the events of `work` on stderr; what it returns."""
    from ltx_a2v.cli.progress import progress_on_stderr

    with closing(work) as stream, progress_on_stderr() as display:
        while True:
            try:
                display.show(next(stream))
            except StopIteration as end:
                return end.value


def _print_report(result: GenerationResult, kind: str) -> None:
    try:
        _print(_report(result, kind))
    except A2VError as error:
        raise A2VError(f"{error} The video is complete: {result.output_path}.") from error


def _report(result: GenerationResult, kind: str) -> str:
    if kind == "json":
        return json.dumps(result.as_json()) + "\n"
    seconds = result.num_frames / result.frame_rate
    phases = ", ".join(f"{name} {took:.1f}" for name, took in result.phases.items())
    notes = "".join(f"note: {notice}\n" for notice in result.notices)
    return (
        f"{result.output_path}: {result.width}x{result.height}, {result.num_frames} frames ({seconds:.2f} s), "
        f"seed {result.seed}\n"
        f"{result.elapsed_seconds:.1f} s ({phases}); peak VRAM {result.peak_vram_gib:.2f} GiB\n{notes}"
    )


def _print(text: str) -> None:
    with _stdout() as stdout:
        encoding = stdout.encoding or "utf-8"
        stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


@contextmanager
def _stdout() -> Iterator[TextIO]:
    """Raises `A2VError` where stdout is closed or does not take all that is written."""
    if sys.stdout is None:
        raise A2VError("Nothing can be printed: stdout is closed.")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise A2VError(f"Nothing can be printed: stdout answers {error.strerror!r}.") from error


def _say(message: str) -> None:
    with suppress(OSError, AttributeError):  # a closed stderr is None
        sys.stderr.write(message + "\n")


if __name__ == "__main__":
    sys.exit(main())
