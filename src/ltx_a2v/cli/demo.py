"""`ltx-a2v demo`: a short video with a miniature model, to see that all works."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltx_a2v.cli.output import say
from ltx_a2v.cli.report import add_report_flag, print_report
from ltx_a2v.cli.stopping import importing
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.request import GenerationRequest
from ltx_a2v.settings.defaults import cache_dir

HELP = "make a short video with a miniature model, to see that all works"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-path", type=Path, default=Path("demo.mp4"), help="where to write the mp4")
    add_report_flag(parser)


def run(arguments: argparse.Namespace) -> int:
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
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.miniature import ensure_miniature
        from ltx_a2v.session import A2VPipeline

    pipeline = A2VPipeline.open(ensure_miniature(cache_dir() / "miniature"), device="cpu")
    print_report(watch(pipeline.generate(request)), arguments.report)
    if arguments.report == "text":
        say("The miniature model has random weights and paints texture; the real files paint people (see README).")
    return 0


def _examples() -> Path:
    """In the wheel inside the package, in a checkout at its top."""
    package = Path(__file__).parents[1]
    return package / "examples" if (package / "examples").is_dir() else package.parents[1] / "examples"
