"""The command line: parse, call, print.

Heavy libraries are imported by the commands that need them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from pydantic import BaseModel

from ltx_a2v.errors import A2VError, BudgetTooSmall, InvalidModel, InvalidRequest
from ltx_a2v.events import Done, Event, GenerationResult
from ltx_a2v.request import GenerationRequest, Guidance
from ltx_a2v.serving.settings import add_serve_arguments, settings_from
from ltx_a2v.settings import Settings, cache_dir
from ltx_a2v.stopping import EXIT_CODE, STOPPED, importing, interrupt, on_stop

DTYPES = ("bfloat16", "float32")
PLANNED_FIELDS = ("width", "height", "num_frames", "frame_rate", "num_inference_steps")
"""What the memory of a request depends on, and how long it takes."""
QUANTIZATION_MODES = "fp8-cast, fp8-scaled, fp8-scaled-mm, int8, int8-quanto, fp8-quanto or int4-quanto"


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
    _add_model_arguments(generate)
    _add_field_arguments(generate, GenerationRequest, "request")
    _add_field_arguments(generate, Guidance, "guidance")
    _add_device_arguments(generate)
    _add_loading_arguments(generate)
    _add_report_argument(generate)
    generate.set_defaults(command=_generate)

    quantize = commands.add_parser("quantize", help="write a checkpoint once as a quantization mode stores it")
    quantize.add_argument("--checkpoint-path", type=Path, required=True, help="the bf16 checkpoint")
    quantize.add_argument("--transformer-quantization", required=True, metavar="MODE", help=QUANTIZATION_MODES)
    quantize.add_argument(
        "--output-path", type=Path, required=True, help="the .safetensors file to write; one that is there is replaced"
    )
    _add_keep_argument(quantize)
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
    add_serve_arguments(serve)
    serve.set_defaults(command=_serve)

    plan = commands.add_parser("plan", help="what fits in how much memory, before anything is loaded")
    _add_model_arguments(plan)
    _add_field_arguments(plan, GenerationRequest, "request", only=PLANNED_FIELDS)
    _add_field_arguments(plan, Guidance, "guidance")
    _add_device_arguments(plan)
    _add_loading_arguments(plan)
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


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model files")
    group.add_argument(
        "--model-dir", type=_path, help="folder in which the files below are found by name; also LTX_A2V_MODEL_DIR"
    )
    group.add_argument("--checkpoint-path", type=_path, help="ltx-2.3-22b-dev.safetensors")
    group.add_argument("--distilled-lora-path", type=_path, help="ltx-2.3-22b-distilled-lora-384-1.1.safetensors")
    group.add_argument("--spatial-upsampler-path", type=_path, help="ltx-2.3-spatial-upscaler-x2-1.1.safetensors")
    group.add_argument("--gemma-root", type=_path, help="folder gemma-3-12b-it-qat-q4_0-unquantized")


def _path(given: str) -> Path | None:
    """Nothing, as an unset variable gives, is not the current folder."""
    return Path(given) if given else None


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


def _add_device_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("device")
    group.add_argument("--device", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    group.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on the CPU")
    group.add_argument(
        "--vram-budget",
        default="auto",
        metavar="BUDGET",
        help="12GiB, 60%%, auto (what is free now) or unlimited (default: auto)",
    )
    group.add_argument(
        "--vram-headroom", default="1GiB", metavar="BYTES", help="what auto leaves to others (default: 1GiB)"
    )


def _add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("loading")
    group.add_argument(
        "--transformer-quantization",
        metavar="MODE",
        help=f"how the transformer's weights are stored and multiplied: none, {QUANTIZATION_MODES} "
        "(default: as the checkpoint is)",
    )
    group.add_argument(
        "--text-encoder-quantization",
        default="none",
        metavar="MODE",
        help="how the text encoder's weights are stored: none, int4 (what they were trained for) or bnb-nf4 "
        "(default: none)",
    )
    group.add_argument(
        "--no-prompt-cache", action="store_true", help="encode every prompt anew, and keep nothing of it on disk"
    )
    _add_keep_argument(group)
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:STRENGTH]",
        help="a style LoRA for both stages; repeatable",
    )
    group.add_argument(
        "--exact-passes", action="store_true", help="compute every guidance pass on its own: slower, to compare"
    )


def _add_keep_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument("--keep-bf16-blocks", default="", metavar="BLOCKS", help="blocks left in bf16, as 0,43-47")


def _load_options(arguments: argparse.Namespace) -> Any:
    from ltx_a2v.options import LoadOptions
    from ltx_a2v.quantization import parse_blocks
    from ltx_a2v.residency.budget import Budget, parse_bytes

    return LoadOptions(
        transformer_quantization=arguments.transformer_quantization,
        keep_bf16_blocks=parse_blocks(arguments.keep_bf16_blocks),
        text_encoder_quantization=arguments.text_encoder_quantization,
        prompt_cache=not arguments.no_prompt_cache,
        loras=tuple(_style_lora(given) for given in arguments.lora),
        exact_passes=arguments.exact_passes,
        budget=Budget(arguments.vram_budget, parse_bytes(arguments.vram_headroom, "--vram-headroom")),
    )


def _style_lora(given: str) -> Any:
    from ltx_a2v.options import StyleLora

    path, separator, strength = given.rpartition(":")
    if not separator or os.path.exists(given):  # noqa: PTH110  Path's raises for names that are too long
        return StyleLora(Path(given))
    try:
        return StyleLora(Path(path), float(strength))
    except ValueError:
        raise InvalidRequest(f"--lora {given!r}: {strength!r} is no strength; write PATH or PATH:0.8.") from None


def _add_report_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", choices=("text", "json"), default="text", help="what to print when done")


def _generate(arguments: argparse.Namespace) -> int:
    request = GenerationRequest(**_fields(arguments, "request"), guidance=Guidance(**_fields(arguments, "guidance")))
    paths = _model_paths(arguments)
    _quiet_libraries()

    with importing():
        import torch

        from ltx_a2v.pipeline import A2VPipeline

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    pipeline = A2VPipeline.open(paths, device=arguments.device, dtype=dtype, options=_load_options(arguments))
    _print_report(_watch(pipeline.generate(request)), arguments.report)
    return 0


def _quantize(arguments: argparse.Namespace) -> int:
    _quiet_libraries()

    from ltx_a2v.pipeline import choose_device
    from ltx_a2v.quantization import parse_blocks
    from ltx_a2v.quantization.convert_file import quantize_file

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

    return serve(settings_from(arguments))


def _plan(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    request = GenerationRequest(
        prompt="",
        audio=Path(),
        **{"num_frames": 97} | _fields(arguments, "request"),
        guidance=Guidance(**_fields(arguments, "guidance")),
    )
    paths = _model_paths(arguments)
    _quiet_libraries()

    import torch

    from ltx_a2v.pipeline import A2VPipeline
    from ltx_a2v.plan_report import LADDER, best, print_table, try_budget
    from ltx_a2v.residency.budget import Budget, beside

    options = _load_options(arguments)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else torch.bfloat16
    ladder: tuple[str, ...] = LADDER if arguments.vram_budget == "auto" else (arguments.vram_budget,)
    rows, speeds = [], {}
    for mode in [m.strip() for m in arguments.modes.split(",") if m.strip()] or [options.transformer_quantization]:
        chosen = replace(options, transformer_quantization=mode)
        pipeline = A2VPipeline.open(paths, device=arguments.device, dtype=dtype, options=chosen)
        if arguments.coexist:
            ladder = (beside(arguments.coexist, pipeline.device, options.budget.headroom),)
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
    _quiet_libraries()

    with importing():
        from ltx_a2v.miniature import ensure_miniature
        from ltx_a2v.pipeline import A2VPipeline

    pipeline = A2VPipeline.open(ensure_miniature(cache_dir() / "miniature"), device="cpu")
    _print_report(_watch(pipeline.generate(request)), arguments.report)
    if arguments.report == "text":
        _say("The miniature model has random weights and paints texture; the real files paint people (see README).")
    return 0


def _examples() -> Path:
    """In the wheel beside this file, in a checkout at its top."""
    here = Path(__file__).parent
    return here / "examples" if (here / "examples").is_dir() else here.parents[1] / "examples"


def _fields(arguments: argparse.Namespace, title: str) -> dict[str, Any]:
    given = vars(arguments).items()
    return {name.removeprefix(f"{title}."): value for name, value in given if name.startswith(f"{title}.")}


def _model_paths(arguments: argparse.Namespace) -> Any:
    from ltx_a2v.checkpoint.paths import ModelPaths

    given = {
        "checkpoint": arguments.checkpoint_path,
        "distilled_lora": arguments.distilled_lora_path,
        "spatial_upsampler": arguments.spatial_upsampler_path,
        "gemma_root": arguments.gemma_root,
    }
    if all(given.values()):
        return ModelPaths(**given)
    model_dir = arguments.model_dir or Settings().model_dir
    if model_dir is None:
        raise InvalidModel(
            "No model files were given: use --model-dir (or LTX_A2V_MODEL_DIR), or --checkpoint-path, "
            "--distilled-lora-path, --spatial-upsampler-path and --gemma-root; `ltx-a2v demo` needs none."
        )
    return ModelPaths.discover(model_dir, **given)


def _watch(events: Generator[Event]) -> GenerationResult:
    """Show the events on stderr until the last one."""
    from ltx_a2v.progress import progress_on_stderr

    with closing(events) as stream, progress_on_stderr() as display:
        for event in stream:
            if isinstance(event, Done):
                return event.result
            display.show(event)
    raise AssertionError("a generation ends with Done")


def _show(work: Generator[Event, None, Any]) -> Any:
    """Show the events of `work` on stderr; what it returns."""
    from ltx_a2v.progress import progress_on_stderr

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


def _quiet_libraries() -> None:
    """Their advice about training and downloads is not for our users."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # phases need blocks of other sizes than the phase before; without this their remains stay reserved
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it wherever it is installed


if __name__ == "__main__":
    sys.exit(main())
