"""`ltx-a2v quantize`: write a checkpoint, or the text encoder, in the storage of a quantization mode."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_a2v.checkpoint.paths import check_folder
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.cli.output import stdout, write_out
from ltx_a2v.cli.outputs import add_overwrite_flag, check_free, is_same_file
from ltx_a2v.cli.parser import Parser
from ltx_a2v.errors import InvalidInput
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.settings.defaults import QUANTIZATIONS
from ltx_a2v.settings.model import QUANTIZATION_MODES, TEXT_ENCODER_MODES, ModelSettings, check_name
from ltx_a2v.settings.units import parse_blocks

if TYPE_CHECKING:
    import torch

    from ltx_a2v.conversion.report import ConversionReport
    from ltx_a2v.phases import Work

HELP = "write a checkpoint or the text encoder once as a quantization mode stores it"


EXAMPLES = (
    (
        "half the file: it starts faster, and needs half the memory",
        "quantize --checkpoint-path checkpoint.safetensors --transformer-quantization int8 "
        "--output-path checkpoint-int8.safetensors",
    ),
    (
        "a text encoder of a quarter of the bytes",
        "quantize --gemma-root gemma-3-12b-it-qat-q4_0-unquantized --text-encoder int4 --output-path gemma-3-12b-int4",
    ),
)


def add_flags(parser: Parser) -> None:
    checkpoint = parser.add_argument_group("a checkpoint")
    checkpoint.add_argument("--checkpoint-path", type=Path, help="the bf16 checkpoint")
    checkpoint.add_argument("--transformer-quantization", metavar="MODE", help=QUANTIZATION_MODES)
    encoder = parser.add_argument_group("or a text encoder")
    encoder.add_argument("--gemma-root", type=Path, help="the folder of the bf16 text encoder")
    encoder.add_argument(
        "--text-encoder", "--text-encoder-quantization", dest="text_encoder", metavar="MODE", help=TEXT_ENCODER_MODES
    )
    add_overwrite_flag(parser)
    parser.add_argument(
        "--output-path",
        type=Path,
        required=True,
        help="the .safetensors file to write, or a new folder for a text encoder",
    )
    checkpoint.add_argument(
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
    if arguments.transformer_quantization is not None:
        check_name("quantization mode", arguments.transformer_quantization, QUANTIZATIONS)
    parse_blocks(arguments.keep_bf16_blocks)
    sources = [path for path in (arguments.checkpoint_path, arguments.gemma_root) if path is not None]
    if not any(is_same_file(arguments.output_path, path) for path in sources):  # which is refused later
        check_free("output_path", arguments.output_path, arguments.overwrite)
    _check_sources(arguments)
    prepare_libraries()

    from ltx_a2v.cli.progress import show

    report = show(_work(arguments))
    if arguments.report == "json":
        write_out(json.dumps(report.as_json()) + "\n")
    else:
        with stdout() as out:
            report.print(out)
    return 0


def _check_sources(arguments: argparse.Namespace) -> None:
    """Raises `InvalidModel` for a file or a folder that cannot be one, before anything heavy is imported."""
    if arguments.checkpoint_path is not None:
        SafetensorsFile.open(arguments.checkpoint_path)
    if arguments.gemma_root is not None:
        check_folder(arguments.gemma_root, "text encoder folder")


def _on(device: torch.device) -> torch.device:
    """Libraries that launch kernels themselves do so on the current device."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _work(arguments: argparse.Namespace) -> Work[ConversionReport]:
    """Raises `InvalidInput` where the flags are those of neither file, or of both."""
    from ltx_a2v.conversion.convert import quantize_file
    from ltx_a2v.conversion.text_encoder import quantize_text_encoder
    from ltx_a2v.session import choose_device

    output, measured = arguments.output_path, arguments.report is not None
    checkpoint, mode = arguments.checkpoint_path, arguments.transformer_quantization
    gemma, text_mode = arguments.gemma_root, arguments.text_encoder
    for_checkpoint, for_encoder = (checkpoint, mode, arguments.keep_bf16_blocks), (gemma, text_mode)
    if checkpoint and mode and not any(for_encoder):
        blocks = parse_blocks(arguments.keep_bf16_blocks)
        device = _on(choose_device(arguments.device))
        return quantize_file(checkpoint, mode, output, blocks, device=device, measure_errors=measured)
    if gemma and text_mode and not any(for_checkpoint):
        device = _on(choose_device(arguments.device))
        return quantize_text_encoder(gemma, text_mode, output, device=device, measure_errors=measured)
    given = {
        "--checkpoint-path": checkpoint,
        "--transformer-quantization": mode,
        "--keep-bf16-blocks": arguments.keep_bf16_blocks,
        "--gemma-root": gemma,
        "--text-encoder": text_mode,
    }
    named = ", ".join(flag for flag, value in given.items() if value) or "none of them"
    raise InvalidInput(
        "Give --checkpoint-path and --transformer-quantization for a checkpoint, or --gemma-root and --text-encoder "
        f"for a text encoder, one per run; given: {named}."
    )
