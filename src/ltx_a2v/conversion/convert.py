"""Writes a quantized copy of a checkpoint: every tensor is read once, converted and written.

The new file is in execution order: for each network the tensors outside the blocks, then block after block, so that a
block is read as one contiguous range. All other tensors of the checkpoint follow unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltx_a2v.checkpoint.keys import AS_IN_FILE, KeyMap
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec
from ltx_a2v.conversion.report import ConversionReport, LayerError
from ltx_a2v.errors import InvalidMode, InvalidModel, InvalidOutput, OutOfMemory, named
from ltx_a2v.events import StepFinished
from ltx_a2v.media.output_file import check_output_file
from ltx_a2v.model.files import open_config, split_checkpoint
from ltx_a2v.networks import text, transformer
from ltx_a2v.phases import PhaseLog, Work
from ltx_a2v.quantization.choose import Stored, choose_policies, read_stored, write_stored
from ltx_a2v.quantization.errors_report import squared_error
from ltx_a2v.quantization.modes import MODES
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.quantization.unquantized import UnquantizedLinear
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader
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
    chosen = torch.device(device)
    work = PhaseLog(chosen).phase(
        "quantize", lambda: _write(plan, output, chosen, measure_errors), steps=len(plan.pieces)
    )
    try:
        return (yield from work)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{chosen} ran out of memory; free some, or use {named('device')} cpu.") from error


@dataclass(frozen=True)
class _Source:
    """A tensor of the checkpoint, by its name in its network, with the policy and the key map of the network."""

    network: str
    name: str
    entry: TensorEntry
    policy: QuantizationPolicy | None = None
    key_map: KeyMap = AS_IN_FILE

    def stored(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are written for it, with their names in the file."""
        converted = [(self.name, tensor)] if self.policy is None else self.policy.convert(self.name, tensor)
        for name, value in converted:
            yield self.key_map.to_file(name), value

    def layout(self) -> list[TensorSpec]:
        empty = torch.empty(self.entry.shape, dtype=self.entry.dtype, device="meta")
        return [TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in self.stored(empty)]

    def error(self, tensor: Tensor) -> LayerError | None:
        """The error of a quantized weight; None for any other tensor."""
        layer, _, leaf = self.name.rpartition(".")
        format = self.policy.format_of(layer) if self.policy and leaf == "weight" else None
        if format is None or format is UnquantizedLinear:
            return None
        return LayerError(self.network, layer, *squared_error(tensor, format))


@dataclass(frozen=True)
class _Plan:
    """Everything that a conversion writes, in file order, and the metadata of the new file."""

    stored: Stored
    metadata: dict[str, str]
    pieces: list[list[_Source]]
    """Each is one block, or the tensors of one network outside its blocks."""

    def specs(self) -> list[TensorSpec]:
        return [spec for piece in self.pieces for source in piece for spec in source.layout()]


def _plan(path: Path, mode: str, keep_bf16_blocks: frozenset[int]) -> _Plan:
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
    pieces: list[list[_Source]] = []
    taken: set[str] = set()
    for network, (blueprint, policy) in networks.items():
        for names in _in_execution_order(blueprint, policy):
            pieces.append(
                [_Source(network, name, blueprint.entries[name], policy, blueprint.key_map) for name in names]
            )
            taken.update(blueprint.entries[name].name for name in names)
    pieces.append([_Source(OTHERS, name, entry) for name, entry in file.tensors.items() if name not in taken])
    stored = Stored(mode, keep_bf16_blocks)
    return _Plan(stored, {**file.metadata, **write_stored(stored)}, [piece for piece in pieces if piece])


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


def _in_execution_order(blueprint: Blueprint, policy: QuantizationPolicy) -> Iterable[tuple[str, ...]]:
    """The names of the rest of the network, then of each block; checks that the file has them, and the mode."""
    TensorLoader(blueprint, torch.bfloat16, policy).check()
    rest, blocks = blueprint.split(blueprint.make())
    return [piece.names for piece in (rest, *blocks)]


def _check_output(source: Path, output: Path) -> None:
    check_output_file(output, ".safetensors", source.name)
    if output.exists() and output.samefile(source):
        raise InvalidOutput(f"{output} is the checkpoint itself: write to another file.")


def _write(plan: _Plan, output: Path, device: torch.device, measure_errors: bool) -> Work[ConversionReport]:
    before: dict[str, int] = dict.fromkeys(("transformer", "connectors", OTHERS), 0)
    after = dict(before)
    errors: list[LayerError] = []
    with SafetensorsWriter(output, plan.specs(), plan.metadata) as writer:
        for step, piece in enumerate(plan.pieces, start=1):
            for source in piece:
                before[source.network] += source.entry.nbytes
                after[source.network] += _write_source(source, writer, device, errors if measure_errors else None)
            yield StepFinished("quantize", step, len(plan.pieces))
    return ConversionReport(output, plan.stored.mode, plan.stored.keep_bf16_blocks, before, after, tuple(errors))


def _write_source(
    source: _Source, writer: SafetensorsWriter, device: torch.device, errors: list[LayerError] | None
) -> int:
    """Read, convert and write one tensor, and free it; returns the bytes written."""
    tensor, written = read_tensor(source.entry).to(device), 0
    for name, value in source.stored(tensor):
        writer.write(name, value)
        written += value.nbytes
    error = None if errors is None else source.error(tensor)
    if errors is not None and error is not None:
        errors.append(error)
    return written
