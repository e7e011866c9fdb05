"""Writes a quantized copy of a checkpoint: every tensor is read once, converted and written.

The new file is in execution order: for each network the tensors outside the blocks, then block after block, so that a
block is read as one contiguous range. All other tensors of the checkpoint follow unchanged.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.conversion.report import ConversionReport
from ltx_a2v.conversion.writing import Conversion, Source, convert, pieces_of
from ltx_a2v.errors import InvalidMode, InvalidModel, InvalidOutput
from ltx_a2v.media.output_file import check_output_file
from ltx_a2v.model.files import open_config, split_checkpoint
from ltx_a2v.networks import text, transformer
from ltx_a2v.phases import Work
from ltx_a2v.quantization.choose import Stored, choose_policies, read_stored, write_stored
from ltx_a2v.quantization.modes import MODES
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.versions import Covered, ModelConfig

OTHERS = "others"
"""Tensors outside of the transformer and the connectors: VAEs, vocoder."""


def quantize_file(
    source: Path,
    mode: str,
    output: Path,
    keep_bf16_blocks: frozenset[int] = frozenset(),
    *,
    device: torch.device | str = "cpu",
    measure_errors: bool = False,
) -> Work[ConversionReport]:
    """Write `source`, a bf16 checkpoint, to `output` as `mode` stores it; the bits are the same on every `device`.

    Closing the iterator stops the work and leaves no partial file. Raises `InvalidModel` for a source that is damaged
    or quantized already, `InvalidMode` (`MissingExtra`) for the mode, `InvalidOutput` for the place to write to.
    """
    plan = _plan(source, mode, keep_bf16_blocks)
    _check_output(source, output)
    return (yield from convert(plan, output, torch.device(device), measure_errors))


def _plan(path: Path, mode: str, keep_bf16_blocks: frozenset[int]) -> Conversion:
    file = SafetensorsFile.open(path)
    config = open_config(file)
    entries = split_checkpoint(file, config)
    transformer_policy, connectors_policy = _choose(
        path, mode, keep_bf16_blocks, read_stored(path, file.metadata), entries, config.version.covered
    )
    hidden_states = _hidden_states(path, config, entries)
    networks = {
        "transformer": (transformer.transformer_blueprint(config, entries["transformer"]), transformer_policy),
        "connectors": (
            text.connectors_blueprint(config, hidden_states, entries["connectors"]),
            connectors_policy,
        ),
    }
    pieces = [piece for name, (blueprint, policy) in networks.items() for piece in pieces_of(name, blueprint, policy)]
    taken = {source.entry.name for piece in pieces for source in piece}
    pieces.append([Source(OTHERS, name, entry) for name, entry in file.tensors.items() if name not in taken])
    stored = Stored(mode, keep_bf16_blocks)
    return Conversion(stored, {**file.metadata, **write_stored(stored)}, [piece for piece in pieces if piece])


def _choose(
    path: Path,
    mode: str,
    keep_bf16_blocks: frozenset[int],
    stored: Stored | None,
    entries: dict[str, dict[str, TensorEntry]],
    covered: Covered,
) -> tuple[QuantizationPolicy, QuantizationPolicy]:
    def policies(wanted: str | None, kept: frozenset[int]) -> tuple[QuantizationPolicy, QuantizationPolicy]:
        return choose_policies(wanted, kept, path, stored, entries["transformer"], entries["connectors"], covered)

    if mode == "none":
        others = ", ".join(name for name in MODES if name != mode)
        raise InvalidMode(f"The mode none leaves the weights as they are: choose one of {others}.")
    if stored is not None or policies(None, frozenset())[0].already_stored:
        how = f"as {stored.mode}" if stored else "to fp8 with scales"
        raise InvalidModel(f"{path} is quantized already, {how}: give the bf16 checkpoint.")
    return policies(mode, keep_bf16_blocks)


def _hidden_states(path: Path, config: ModelConfig, entries: dict[str, dict[str, TensorEntry]]) -> int:
    """Number of the text encoder's hidden states, from the connectors: the encoder's config is in another file."""
    projection = entries["connectors"].get("video_text_proj_in.weight")
    if projection is None:
        raise InvalidModel(f"{path} has no text connectors; give the file that holds transformer and connectors.")
    return int(projection.shape[-1] // config.caption_channels)


def _check_output(source: Path, output: Path) -> None:
    check_output_file(output, ".safetensors", source.name)
    if output.exists() and output.samefile(source):
        raise InvalidOutput(f"{output} is the checkpoint itself: write to another file.")
