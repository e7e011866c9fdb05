"""`ltx-a2v quantize`: write a checkpoint in the storage of a quantization mode."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ltx_a2v.cli.output import stdout, write_out
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.settings.model import QUANTIZATION_MODES, ModelSettings

HELP = "write a checkpoint once as a quantization mode stores it"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint-path", type=Path, required=True, help="the bf16 checkpoint")
    parser.add_argument("--transformer-quantization", required=True, metavar="MODE", help=QUANTIZATION_MODES)
    parser.add_argument(
        "--output-path", type=Path, required=True, help="the .safetensors file to write; one that is there is replaced"
    )
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
    prepare_libraries()

    from ltx_a2v.cli.progress import show
    from ltx_a2v.conversion.convert import quantize_file
    from ltx_a2v.quantization import parse_blocks
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
