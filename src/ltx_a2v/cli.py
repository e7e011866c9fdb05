"""The command line: parse, call, print.

Heavy libraries are imported by the commands that need them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pydantic import BaseModel

from ltx_a2v.errors import A2VError, Cancelled, InvalidModel
from ltx_a2v.events import Done, Event, GenerationResult
from ltx_a2v.request import GenerationRequest, Guidance
from ltx_a2v.settings import Settings, cache_dir

DTYPES = ("bfloat16", "float32")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a mistake, 130 when stopped."""
    try:
        arguments = build_parser().parse_args(argv)
        signal.signal(signal.SIGTERM, _interrupt)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except A2VError as error:
        _say(f"ltx-a2v: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("ltx-a2v: stopped; nothing was written.")
        return Cancelled.exit_code


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ltx-a2v", description="One image + speech + a prompt -> a lip-synced video, with LTX-2.3.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    generate = commands.add_parser("generate", help="make one video")
    _add_model_arguments(generate)
    _add_field_arguments(generate, GenerationRequest, "request")
    _add_field_arguments(generate, Guidance, "guidance")
    _add_device_arguments(generate)
    _add_report_argument(generate)
    generate.set_defaults(command=_generate)

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


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model files")
    group.add_argument(
        "--model-dir", type=Path, help="folder in which the files below are found by name; also LTX_A2V_MODEL_DIR"
    )
    group.add_argument("--checkpoint-path", type=Path, help="ltx-2.3-22b-dev.safetensors")
    group.add_argument("--distilled-lora-path", type=Path, help="ltx-2.3-22b-distilled-lora-384-1.1.safetensors")
    group.add_argument("--spatial-upsampler-path", type=Path, help="ltx-2.3-spatial-upscaler-x2-1.1.safetensors")
    group.add_argument("--gemma-root", type=Path, help="folder gemma-3-12b-it-qat-q4_0-unquantized")


def _add_field_arguments(parser: argparse.ArgumentParser, model: type[BaseModel], title: str) -> None:
    """One flag per field of a request model; text is left for the model to read and judge."""
    group = parser.add_argument_group(title)
    for name, field in model.model_fields.items():
        if not isinstance(field.json_schema_extra, dict):
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


def _add_report_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", choices=("text", "json"), default="text", help="what to print when done")


def _generate(arguments: argparse.Namespace) -> int:
    request = GenerationRequest(**_fields(arguments, "request"), guidance=Guidance(**_fields(arguments, "guidance")))
    paths = _model_paths(arguments)
    _quiet_libraries()

    import torch

    from ltx_a2v.pipeline import A2VPipeline

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    pipeline = A2VPipeline.open(paths, device=arguments.device, dtype=dtype)
    _print_report(_watch(pipeline.generate(request)), arguments.report)
    return 0


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


def _print_report(result: GenerationResult, kind: str) -> None:
    if kind == "json":
        sys.stdout.write(json.dumps(result.as_json()) + "\n")
        return
    seconds = result.num_frames / result.frame_rate
    phases = ", ".join(f"{name} {took:.1f}" for name, took in result.phases.items())
    sys.stdout.write(
        f"{result.output_path}: {result.width}x{result.height}, {result.num_frames} frames ({seconds:.2f} s), "
        f"seed {result.seed}\n"
        f"{result.elapsed_seconds:.1f} s ({phases}); peak VRAM {result.peak_vram_gib:.2f} GiB\n"
    )
    for notice in result.notices:
        sys.stdout.write(f"note: {notice}\n")


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def _quiet_libraries() -> None:
    """Their advice about training and downloads is not for our users."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
