"""Writes converted tensors: each is read once, converted, written and freed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltx_a2v.checkpoint.keys import AS_IN_FILE, KeyMap
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec
from ltx_a2v.conversion.report import ConversionReport, LayerError
from ltx_a2v.errors import OutOfMemory, named
from ltx_a2v.events import StepFinished
from ltx_a2v.phases import PhaseLog, Work
from ltx_a2v.quantization.choose import Stored
from ltx_a2v.quantization.errors_report import squared_error
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.quantization.unquantized import UnquantizedLinear
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader


@dataclass(frozen=True)
class Source:
    """A tensor of a file, by its name in its network, with the policy and the key map of the network."""

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
class Conversion:
    """Everything that a conversion writes, in file order, and the metadata of the new file."""

    stored: Stored
    metadata: dict[str, str]
    pieces: list[list[Source]]
    """Each is one block, or the tensors of one network outside its blocks."""

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(source.network for piece in self.pieces for source in piece))

    def specs(self) -> list[TensorSpec]:
        return [spec for piece in self.pieces for source in piece for spec in source.layout()]


def pieces_of(network: str, blueprint: Blueprint, policy: QuantizationPolicy) -> Iterator[list[Source]]:
    """The tensors of the rest of the network, then of each block, in execution order.

    Raises `InvalidModel` unless the file has them, and `InvalidMode` for the mode.
    """
    TensorLoader(blueprint, torch.bfloat16, policy).check()
    rest, blocks = blueprint.split(blueprint.make())
    for piece in (rest, *blocks):
        yield [Source(network, name, blueprint.entries[name], policy, blueprint.key_map) for name in piece.names]


def convert(plan: Conversion, output: Path, device: torch.device, measure_errors: bool) -> Work[ConversionReport]:
    """`write_pieces` as a phase. Raises `OutOfMemory`."""
    work = PhaseLog(device).phase(
        "quantize", lambda: write_pieces(plan, output, device, measure_errors), steps=len(plan.pieces)
    )
    try:
        return (yield from work)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{device} ran out of memory; free some, or use {named('device')} cpu.") from error


def write_pieces(plan: Conversion, output: Path, device: torch.device, measure_errors: bool) -> Work[ConversionReport]:
    """Write the file, a piece per step; it appears under its name when it is complete."""
    before: dict[str, int] = dict.fromkeys(plan.networks, 0)
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
    source: Source, writer: SafetensorsWriter, device: torch.device, errors: list[LayerError] | None
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
