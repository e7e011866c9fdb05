"""`ltx-a2v plan`: what fits in how much memory, before anything is loaded."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import TYPE_CHECKING

from ltx_a2v.cli.flags import add_model_flags, add_request_flags, request_from, settings_from
from ltx_a2v.cli.output import stdout, write_out
from ltx_a2v.cli.parser import Parser
from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.request import GenerationRequest
from ltx_a2v.settings.model import ModelSettings

if TYPE_CHECKING:
    from ltx_a2v.cli.plan_table import Row
    from ltx_a2v.planning.probe import Speeds
    from ltx_a2v.session import A2VPipeline

HELP = "what fits in how much memory, before anything is loaded"
EXAMPLES = (
    ("what this machine can do", "plan --model-dir ~/models/LTX-2.3"),
    (
        "compare two modes in portrait, with predicted times",
        "plan --model-dir ~/models --size portrait --modes int8,none --measure",
    ),
)
FIELDS = ("width", "height", "num_frames", "frame_rate", "num_inference_steps")
"""What the memory of a request depends on, and how long it takes."""
NUM_FRAMES = 97
"""Planned for where none are given: four seconds."""


def add_flags(parser: Parser) -> None:
    add_request_flags(parser, only=FIELDS)
    add_model_flags(parser)
    parser.add_argument("--modes", default="", metavar="MODES", help="compare several modes, as int8,fp8-cast")
    parser.add_argument("--coexist", metavar="BYTES", help="what other services need of the GPU, as 30GiB")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure this machine for some seconds, and predict how long a video takes",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    request = request_from(arguments, prompt="", audio="-", num_frames=NUM_FRAMES)
    settings = settings_from(arguments, ModelSettings)
    settings.check()
    prepare_libraries()

    from ltx_a2v.cli.plan_table import best, print_table

    rows: list[Row] = []
    speeds: dict[str, Speeds] = {}
    for mode in _modes(arguments, settings):
        rows += _rows(arguments, settings, mode, request, speeds)
    if arguments.json:
        write_out(json.dumps([row.as_json() for row in rows]) + "\n")
    else:
        with stdout():
            print_table(rows, speeds, f"{request.width}x{request.height}, {request.num_frames} frames")
        _recommend(arguments, rows)
    return 0 if best(rows) else BudgetTooSmall.exit_code


def _modes(arguments: argparse.Namespace, settings: ModelSettings) -> list[str | None]:
    given = [mode.strip() for mode in arguments.modes.split(",") if mode.strip()]
    return [*given] or [settings.transformer_quantization]


def _rows(
    arguments: argparse.Namespace,
    settings: ModelSettings,
    mode: str | None,
    request: GenerationRequest,
    speeds: dict[str, Speeds],
) -> list[Row]:
    """One mode's plan for each budget; what was measured goes to `speeds`."""
    from ltx_a2v.cli.plan_table import try_budget
    from ltx_a2v.hardware.budget import Budget
    from ltx_a2v.session import open_pipeline

    update = {"transformer_quantization": mode, "dtype": settings.dtype or "bfloat16"}
    pipeline = open_pipeline(settings.model_copy(update=update))
    name = mode or "as the file"
    predict = None
    if arguments.measure:
        measured = speeds[name] = pipeline.measure(request)
        predict = lambda plan: pipeline.predict(request, plan, measured)  # noqa: E731
    return [
        try_budget(name, budget, partial(pipeline.plan_for, request, Budget(budget)), predict)
        for budget in _budgets(arguments, settings, pipeline)
    ]


def _budgets(arguments: argparse.Namespace, settings: ModelSettings, pipeline: A2VPipeline) -> tuple[str, ...]:
    from ltx_a2v.cli.plan_table import LADDER
    from ltx_a2v.hardware.budget import left_by_others

    if arguments.coexist:
        return (left_by_others(arguments.coexist, pipeline.device, settings.budget.headroom),)
    return LADDER if settings.vram_budget == "auto" else (settings.vram_budget,)


def _recommend(arguments: argparse.Namespace, rows: list[Row]) -> None:
    """The flags of the best plan that leaves others what they need."""
    from ltx_a2v.cli.plan_table import best

    chosen = best(rows) if arguments.coexist else None
    if chosen is not None:
        mode = f" --transformer-quantization {chosen.mode}" * bool(arguments.modes)
        write_out(f"With {arguments.coexist} for others: --vram-budget {chosen.budget}{mode}\n")
