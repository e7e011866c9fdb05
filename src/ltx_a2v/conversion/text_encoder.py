"""Writes a quantized copy of the text encoder: a folder that is used as the original one is.

The weights are one file in execution order, so that a layer is read as one contiguous range. The tensors of the vision
tower, which is never used, are left out; the config and the tokenizer are copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.conversion.report import ConversionReport
from ltx_a2v.conversion.writing import Conversion, Source, convert, pieces_of
from ltx_a2v.errors import InvalidMode, InvalidModel, InvalidOutput
from ltx_a2v.networks import text
from ltx_a2v.phases import Work
from ltx_a2v.quantization.choose import Stored, choose_text_policy, read_stored, write_stored
from ltx_a2v.quantization.modes import TEXT_ENCODER_MODES
from ltx_a2v.versions import NEWEST

NETWORK = "text encoder"
WEIGHTS = "model.safetensors"


def quantize_text_encoder(
    root: Path,
    mode: str,
    output: Path,
    *,
    device: torch.device | str = "cpu",
    measure_errors: bool = False,
) -> Work[ConversionReport]:
    """Write the text encoder in the folder `root` to the folder `output` as `mode` stores it.

    Closing the iterator stops the work and leaves no folder. Raises `InvalidModel` for a source that is damaged or
    quantized already, `InvalidMode` (`MissingExtra`) for the mode, `InvalidOutput` for the place to write to.
    """
    encoder = NEWEST.text_encoder
    gemma = GemmaFiles.open(root, encoder.model_type, f"{NEWEST.name} needs {encoder.name}")
    plan = _plan(gemma, mode)
    with _complete_folder(output) as part:
        for path in sorted(root.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
                shutil.copy(path, part)
        report = yield from convert(plan, part / WEIGHTS, torch.device(device), measure_errors)
    return report.at(output)


def _plan(gemma: GemmaFiles, mode: str) -> Conversion:
    if mode == "none":
        others = ", ".join(name for name in TEXT_ENCODER_MODES if name != mode)
        raise InvalidMode(f"The mode none leaves the weights as they are: choose one of {others}.")
    stored = read_stored(gemma.root, gemma.metadata, TEXT_ENCODER_MODES)
    if stored is not None:
        raise InvalidModel(f"{gemma.root} is quantized already, as {stored.mode}: give the bf16 text encoder.")
    policy = choose_text_policy(mode, gemma.root, None, NEWEST.covered.text_encoder)
    pieces = list(pieces_of(NETWORK, text.gemma_blueprint(gemma), policy))
    embedding = Source(NETWORK, text.EMBEDDING, gemma.entries[text.EMBEDDING], None, gemma.key_map)
    chosen = Stored(mode, frozenset())
    return Conversion(chosen, {"format": "pt", **write_stored(chosen)}, [*pieces, [embedding]])


@contextmanager
def _complete_folder(output: Path) -> Iterator[Path]:
    """A folder that gets the name `output` when it is complete, and is removed where it never is."""
    if output.exists():
        raise InvalidOutput(f"The output {output} exists already; give a folder that does not exist.")
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a killed run
    try:
        try:
            part.mkdir()
            yield part
            part.rename(output)
        except OSError as error:
            raise InvalidOutput(f"The output {output} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
