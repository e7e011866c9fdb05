"""A checkpoint in, the same checkpoint quantized out: every tensor is read once, converted and written.

The new file lies in execution order: what is in no block, then block after block, so that blocks can be streamed from
it as single pieces, then whatever else the checkpoint holds, untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile, TensorEntry
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec
from ltx_a2v.conversion.report import ConversionReport, LayerError
from ltx_a2v.errors import InvalidMode, InvalidModel, InvalidOutput, OutOfMemory
from ltx_a2v.events import StepFinished
from ltx_a2v.media.output_file import check_output_file
from ltx_a2v.model.files import split_checkpoint
from ltx_a2v.model.recipe import Recipe, split
from ltx_a2v.networks import text, transformer
from ltx_a2v.phases import PhaseLog, Work
from ltx_a2v.quantization.choose import ChosenPolicies, Stored, choose_policies, read_stored, write_stored
from ltx_a2v.quantization.errors_report import squared_error
from ltx_a2v.quantization.modes import MODES
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.quantization.unquantized import UnquantizedLinear

OTHERS = "others"
"""What the transformer and the connectors do not hold: VAEs, vocoder."""


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
        raise OutOfMemory(f"{chosen} ran out of memory; free some, or use --device cpu.") from error


_UNCHANGED = KeyMap(prefixes=(("", ""),))


@dataclass(frozen=True)
class _Source:
    """A tensor of the checkpoint, by its name in its network, and the network's way with it."""

    network: str
    name: str
    entry: TensorEntry
    policy: QuantizationPolicy | None = None
    key_map: KeyMap = _UNCHANGED

    def stored(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What is written for it, by the names of the file."""
        converted = [(self.name, tensor)] if self.policy is None else self.policy.convert(self.name, tensor)
        for name, value in converted:
            yield self.key_map.to_file(name), value

    def layout(self) -> list[TensorSpec]:
        empty = torch.empty(self.entry.shape, dtype=self.entry.dtype, device="meta")
        return [TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in self.stored(empty)]

    def error(self, tensor: Tensor) -> LayerError | None:
        """None for what is not quantized."""
        layer, _, leaf = self.name.rpartition(".")
        format = self.policy.format_of(layer) if self.policy and leaf == "weight" else None
        if format is None or format is UnquantizedLinear:
            return None
        return LayerError(self.network, layer, *squared_error(tensor, format))


@dataclass(frozen=True)
class _Plan:
    stored: Stored
    metadata: dict[str, str]
    pieces: list[list[_Source]]
    """Each one block, or one network's rest."""

    def specs(self) -> list[TensorSpec]:
        return [spec for piece in self.pieces for source in piece for spec in source.layout()]


def _plan(path: Path, mode: str, keep_bf16_blocks: frozenset[int]) -> _Plan:
    file = SafetensorsFile.open(path)
    config = ModelConfig.of(file)
    entries = split_checkpoint(file, config)
    policies = _choose(path, mode, keep_bf16_blocks, read_stored(path, file.metadata), entries)
    dtype = torch.bfloat16  # of modules that never compute
    networks = {
        "transformer": (
            keys.TRANSFORMER,
            policies.transformer,
            transformer.transformer_recipe(config, entries["transformer"], dtype, policies.transformer),
        ),
        "connectors": (
            keys.CONNECTORS,
            policies.connectors,
            text.connectors_recipe(
                config, _hidden_states(path, config, entries), entries["connectors"], dtype, policies.connectors
            ),
        ),
    }
    pieces: list[list[_Source]] = []
    taken: set[str] = set()
    for network, (key_map, policy, recipe) in networks.items():
        for names in _in_execution_order(recipe):
            pieces.append([_Source(network, name, recipe.entries[name], policy, key_map) for name in names])
            taken.update(recipe.entries[name].name for name in names)
    pieces.append([_Source(OTHERS, name, entry) for name, entry in file.tensors.items() if name not in taken])
    stored = Stored(mode, keep_bf16_blocks)
    return _Plan(stored, {**file.metadata, **write_stored(stored)}, [piece for piece in pieces if piece])


def _choose(
    path: Path,
    mode: str,
    keep_bf16_blocks: frozenset[int],
    stored: Stored | None,
    entries: dict[str, dict[str, TensorEntry]],
) -> ChosenPolicies:
    def policies(wanted: str | None, kept: frozenset[int]) -> ChosenPolicies:
        return choose_policies(wanted, kept, path, stored, entries["transformer"], entries["connectors"])

    if mode == "none":
        others = ", ".join(name for name in MODES if name != mode)
        raise InvalidMode(f"The mode none leaves the weights as they are: choose one of {others}.")
    if stored is not None or policies(None, frozenset()).already_converted:
        how = f"as {stored.mode}" if stored else "to fp8 with scales"
        raise InvalidModel(f"{path} is quantized already, {how}: give the bf16 checkpoint.")
    return policies(mode, keep_bf16_blocks)


def _hidden_states(path: Path, config: ModelConfig, entries: dict[str, dict[str, TensorEntry]]) -> int:
    """How many hidden states of the text encoder the connectors take: its config is in another file."""
    projection = entries["connectors"].get("video_text_proj_in.weight")
    if projection is None:
        raise InvalidModel(f"{path} has no text connectors; give the file that holds transformer and connectors.")
    return int(projection.shape[-1] // config.connectors_arguments(1)["caption_channels"])


def _in_execution_order(recipe: Recipe) -> Iterable[list[str]]:
    """The names of the rest of the network, then of each block; checks that the file has them, and the mode."""
    recipe.check()
    recipe.build()
    rest, blocks, _ = split(recipe, recipe.make())
    return [[tensor.name for tensor in loaded.part.layout.fields] for loaded in (rest, *blocks)]


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
    """Read, convert and write one tensor, which is gone when this returns; how many bytes it became."""
    tensor, written = read_tensor(source.entry).to(device), 0
    for name, value in source.stored(tensor):
        writer.write(name, value)
        written += value.nbytes
    error = None if errors is None else source.error(tensor)
    if errors is not None and error is not None:
        errors.append(error)
    return written
