"""`ltx-a2v quantize`: write a checkpoint in the storage of a quantization mode."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ltx_a2v.cli.output import stdout, write_out
from ltx_a2v.cli.outputs import add_overwrite_flag, check_free, is_same_file
from ltx_a2v.cli.parser import Parser
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.settings.defaults import QUANTIZATIONS
from ltx_a2v.settings.model import QUANTIZATION_MODES, ModelSettings, check_name
from ltx_a2v.settings.units import parse_blocks

HELP = "write a checkpoint once as a quantization mode stores it"


EXAMPLES = (
    (
        "half the file: it starts faster, and needs half the memory",
        "quantize --checkpoint-path checkpoint.safetensors --transformer-quantization int8 "
        "--output-path checkpoint-int8.safetensors",
    ),
)


def add_flags(parser: Parser) -> None:
    parser.add_argument("--checkpoint-path", type=Path, required=True, help="the bf16 checkpoint")
    parser.add_argument("--transformer-quantization", required=True, metavar="MODE", help=QUANTIZATION_MODES)
    parser.add_argument("--output-path", type=Path, required=True, help="the .safetensors file to write")
    add_overwrite_flag(parser)
    parser.add_argument(
        "--keep-bf16-blocks",
        default="",
        metavar="BLOCKS",
        help=ModelSettings.model_fields["keep_bf16_blocks"].description,
    )
    parser.add_argument("--device", help="where to compute: cuda, cuda:1 or cpu (default: a GPU where there is one)")
    parser.add_argument(
        "--report",
        nargs="?",
        choices=("text", "json"),
        const="text",
        help="measure each layer's error meanwhile, and print it by kind of layer, with the worst layers",
    )


def run(arguments: argparse.Namespace) -> int:
    check_name("quantization mode", arguments.transformer_quantization, QUANTIZATIONS)
    parse_blocks(arguments.keep_bf16_blocks)
    if not is_same_file(arguments.output_path, arguments.checkpoint_path):  # which is refused later
        check_free("output_path", arguments.output_path, arguments.overwrite)
    prepare_libraries()

    from ltx_a2v.cli.progress import show
    from ltx_a2v.conversion.convert import quantize_file
    from ltx_a2v.session import choose_device

    report = show(
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
        write_out(json.dumps(report.as_json()) + "\n")
    else:
        with stdout() as out:
            report.print(out)
    return 0
