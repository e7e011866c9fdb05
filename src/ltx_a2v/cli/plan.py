"""`ltx-a2v plan`: what fits in how much memory, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import shlex
from functools import partial
from typing import TYPE_CHECKING

from ltx_a2v.cli.early import check_model
from ltx_a2v.cli.flags import OF_VIDEOS, add_model_flags, add_request_flags, request_from, settings_from
from ltx_a2v.cli.output import stdout, write_out
from ltx_a2v.cli.parser import Parser
from ltx_a2v.errors import BudgetTooSmall
from ltx_a2v.hardware.budget import gib
from ltx_a2v.hardware.driver import gpu_name, read_memory
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.hardware.host_memory import host_memory_available, host_memory_total
from ltx_a2v.request import DEFAULTS, GenerationRequest, frame_size
from ltx_a2v.settings.model import MODES, ModelSettings, check_name

if TYPE_CHECKING:
    from ltx_a2v.cli.plan_table import Row
    from ltx_a2v.planning.probe import Speeds
    from ltx_a2v.session import A2VPipeline

HELP = "what fits in how much memory, before anything is loaded"
EXAMPLES = (
    ("what this machine can do", "plan --model-dir ~/models/ltx"),
    (
        "compare two modes in portrait, with predicted times",
        "plan --model-dir ~/models --size portrait --modes int8,none --measure",
    ),
)
FIELDS = ("width", "height", "num_frames", "frame_rate", "num_inference_steps", "quality")
"""What the memory of a request depends on, and how long it takes."""
AUTO = "auto"
NUM_FRAMES = 97
"""Planned for where none are given: four seconds."""


def add_flags(parser: Parser) -> None:
    add_request_flags(parser, only=FIELDS)
    add_model_flags(parser, without=OF_VIDEOS)
    parser.add_argument("--modes", default="", metavar="MODES", help="compare several modes, as int8,fp8-cast")
    parser.add_argument("--coexist", metavar="BYTES", help="what other services need of the GPU, as 30GiB")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure this machine for some seconds, and predict how long a video takes",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, ModelSettings)
    defaults = {"num_frames": NUM_FRAMES, "quality": settings.default_quality}
    request = request_from(arguments, prompt="", audio="-", **defaults)
    check_model(settings)
    for mode in _modes(arguments):
        check_name("quantization mode", mode, MODES)
    if not arguments.json:
        write_out(f"This machine: {machine(settings.device)}.\n\n")
    prepare_libraries()

    from ltx_a2v.cli.plan_table import best, print_table
    from ltx_a2v.fitting import windows_of

    plans = _Plans(arguments, settings, request)
    rows = plans.rows()
    if arguments.json:
        write_out(json.dumps([{**row.as_json(), "quality": request.quality} for row in rows]) + "\n")
    else:
        assert isinstance(request.num_frames, int)  # the flag's type
        windows = len(windows_of(request, request.num_frames))
        write_out(_recommended(arguments, settings, rows, is_long=windows > 1))
        width, height = frame_size(request, None, DEFAULTS.sizes)
        frames = f"{request.num_frames} frames" + (f" in {windows} windows, each as follows" if windows > 1 else "")
        with stdout():
            print_table(rows, plans.speeds, f"{width}x{height}, {frames}, quality {request.quality}")
    return 0 if best(rows) else BudgetTooSmall.exit_code


class _Plans:
    """The rows of the table, with one pipeline per mode, opened when it is needed."""

    def __init__(self, arguments: argparse.Namespace, settings: ModelSettings, request: GenerationRequest) -> None:
        self._arguments = arguments
        self._settings = settings
        self._request = request
        self._pipelines: dict[str, A2VPipeline] = {}
        self.speeds: dict[str, Speeds] = {}
        """Measured, by mode."""

    def rows(self) -> list[Row]:
        """A plan for each budget and mode; with the mode auto, the mode that auto would choose."""
        if modes := _modes(self._arguments):
            return [self._row(mode, budget) for mode in modes for budget in self._budgets(modes[0])]
        chosen = self._settings.transformer_quantization
        return [self._row_of(chosen, budget) for budget in self._budgets("file" if chosen == AUTO else chosen)]

    def _row_of(self, mode: str, budget: str) -> Row:
        if mode != AUTO:
            return self._row(mode, budget)
        from ltx_a2v.planning.auto_mode import SMALLER, copied

        own = self._row("file", budget)
        is_quantized = self._pipeline("file").model.transformer_policy.mode != "none"
        if is_quantized or (own.plan is not None and not copied(own.plan)):
            return own
        return self._row(SMALLER, budget)

    def _row(self, mode: str, budget: str) -> Row:
        from ltx_a2v.cli.plan_table import try_budget
        from ltx_a2v.hardware.budget import Budget

        pipeline, request = self._pipeline(mode), self._request
        predict = None
        if self._arguments.measure:
            speeds = self.speeds[mode] = self.speeds.get(mode) or pipeline.measure(request)
            predict = lambda plan: pipeline.predict(request, plan, speeds)  # noqa: E731
        limit = Budget(budget, self._settings.budget.headroom)
        return try_budget(mode, budget, partial(pipeline.plan_for, request, limit), predict)

    def _pipeline(self, mode: str) -> A2VPipeline:
        from ltx_a2v.session import open_pipeline

        if mode not in self._pipelines:
            update = {"transformer_quantization": mode, "dtype": self._settings.dtype or "bfloat16"}
            self._pipelines[mode] = open_pipeline(self._settings.model_copy(update=update))
        return self._pipelines[mode]

    def _budgets(self, mode: str) -> tuple[str, ...]:
        from ltx_a2v.cli.plan_table import LADDER
        from ltx_a2v.hardware.budget import left_by_others

        device = self._pipeline(mode).device
        if self._arguments.coexist:
            return (left_by_others(self._arguments.coexist, device, self._settings.budget.headroom),)
        if self._settings.vram_budget != AUTO:
            return (self._settings.vram_budget,)
        return (AUTO, *LADDER) if device.type == "cuda" else LADDER


def _modes(arguments: argparse.Namespace) -> list[str]:
    return [mode.strip() for mode in arguments.modes.split(",") if mode.strip()]


def machine(device: str | None) -> str:
    """The GPU and the host's memory in one line, by the driver: no library is loaded for it."""
    memory = read_memory(device, None)
    gpu = "no NVIDIA GPU"
    if memory is not None:
        gpu = f"{gpu_name(device) or 'GPU'}, {gib(memory.free)} of {gib(memory.total)} free"
    return f"{gpu}; RAM {gib(host_memory_available())} of {gib(host_memory_total())} available"


def _recommended(arguments: argparse.Namespace, settings: ModelSettings, rows: list[Row], is_long: bool) -> str:
    """One command line for this machine."""
    from ltx_a2v.cli.plan_table import best

    chosen = best(rows) if arguments.coexist or _modes(arguments) else rows[0]
    automatic = settings.vram_budget == AUTO and not arguments.coexist
    if automatic and read_memory(settings.device, None) is None:
        return "Without a GPU everything runs on the CPU, slowly. The table says what GPUs of each size can do.\n\n"
    if chosen is None or chosen.plan is None:
        return "Nothing fits: see the smallest budget below, or choose a smaller --size or fewer --num-frames.\n\n"
    what = f"With {arguments.coexist} for others" if arguments.coexist else "Recommended"
    flags = [] if chosen.budget == AUTO else ["--vram-budget", chosen.budget]
    if settings.transformer_quantization != AUTO or _modes(arguments):
        flags += ["--transformer-quantization", chosen.mode]
    if is_long:
        flags += ["--work-dir", "work"]  # so that it goes on where it was stopped
    command = ["ltx-a2v generate --image face.png --audio speech.wav --prompt '...'", shlex.join(_files(settings))]
    return f"{what}:\n  {' '.join(filter(None, [*command, shlex.join(flags)]))}\n\n"


def _files(settings: ModelSettings) -> list[str]:
    """The flags of the model's files, as they were given."""
    names = ("model_dir", "checkpoint_path", "distilled_lora_path", "spatial_upsampler_path", "gemma_root")
    given = {name: getattr(settings, name) for name in names}
    return [part for name, path in given.items() if path is not None for part in (settings.flag(name), str(path))]
