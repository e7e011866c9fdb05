"""A mode as one value: how tensors become stored tensors (`sd_ops`), and how a module takes them (`module_ops`).

Both sides read the same `Assignment` of formats to layers, and the layout of a format comes from the function that
quantizes: they cannot drift.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ltx_a2v.errors import InvalidMode, InvalidModel, MissingExtra
from ltx_a2v.quantization.covered import TRANSFORMER, Network
from ltx_a2v.quantization.int8 import Int8MMLinear
from ltx_a2v.quantization.linear import Format, reassign
from ltx_a2v.quantization.modes import format_of_mode, format_of_text_encoder_mode
from ltx_a2v.quantization.prequantized import (
    KeepAsStored,
    Prequantized,
    PrequantizedLinear,
    PrequantizedMMLinear,
    TakeLayoutOfFile,
    TensorInfo,
    detect,
)
from ltx_a2v.versions import NEWEST, CoveredLayers

SdOps = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]
ModuleOps = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Assignment:
    """One format for the covered layers of one network."""

    format: Format
    network: Network = TRANSFORMER
    keep_bf16_blocks: frozenset[int] = frozenset()

    def of(self, layer: str) -> Format | None:
        return self.format if self.network.covers(layer, self.keep_bf16_blocks) else None


@dataclass(frozen=True)
class ConvertTensors:
    """`(name, tensor)` of a parameter -> the `(name, tensor)` that are stored for it."""

    assignment: Assignment

    def __call__(self, key: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        layer, _, name = key.rpartition(".")
        format = self.assignment.of(layer)
        if format is None:
            return [(key, tensor)]
        _check_is_unquantized(key, tensor)
        return [(f"{layer}.{stored}", value) for stored, value in format.store(name, tensor).items()]


@dataclass(frozen=True)
class ReplaceLinears:
    """Gives each covered `nn.Linear` its format, in place."""

    assignment: Assignment

    def __call__(self, module: nn.Module) -> None:
        linears = {name: child for name, child in module.named_modules() if type(child) is nn.Linear}
        self._check_kept_blocks_exist(linears)
        for name, layer in linears.items():
            format = self.assignment.of(name)
            if format is not None:
                reassign(layer, format)

    def _check_kept_blocks_exist(self, layers: Iterable[str]) -> None:
        network, kept = self.assignment.network, self.assignment.keep_bf16_blocks
        blocks = {block for layer in layers if (block := network.block_of(layer)) is not None}
        if network.keeps_blocks and not kept <= blocks:
            last = max(blocks, default=0)
            raise InvalidMode(
                f"Block {min(kept - blocks)} cannot be kept in bf16: the transformer has blocks 0 to {last}."
            )


def _check_is_unquantized(key: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InvalidModel(f"{key} is already quantized (stored as {tensor.dtype}): use a bf16 checkpoint.")


@dataclass(frozen=True)
class QuantizationPolicy:
    """How the linears of a network are stored and multiplied. Activations keep their dtype, bf16 or float32."""

    mode: str
    format: Format
    sd_ops: SdOps
    module_ops: tuple[ModuleOps, ...]

    @classmethod
    def none(cls) -> QuantizationPolicy:
        return cls.from_mode("none")

    @classmethod
    def fp8_cast(cls) -> QuantizationPolicy:
        return cls.from_mode("fp8-cast")

    @classmethod
    def fp8_scaled(cls) -> QuantizationPolicy:
        return cls.from_mode("fp8-scaled")

    @classmethod
    def fp8_scaled_mm(cls) -> QuantizationPolicy:
        return cls.from_mode("fp8-scaled-mm")

    @classmethod
    def int8(cls, *, int8_mm: bool = False) -> QuantizationPolicy:
        """`int8_mm` quantizes activations too and multiplies int8 x int8: faster on some GPUs, other numbers."""
        return cls.from_mode("int8", int8_mm=int8_mm)

    @classmethod
    def int8_quanto(cls) -> QuantizationPolicy:
        return cls.from_mode("int8-quanto")

    @classmethod
    def fp8_quanto(cls) -> QuantizationPolicy:
        return cls.from_mode("fp8-quanto")

    @classmethod
    def int4_quanto(cls) -> QuantizationPolicy:
        return cls.from_mode("int4-quanto")

    @classmethod
    def int4(cls) -> QuantizationPolicy:
        """The text encoder's linears in 4 bits."""
        return cls.for_text_encoder("int4")

    @classmethod
    def for_text_encoder(cls, name: str, covered: CoveredLayers = NEWEST.covered.text_encoder) -> QuantizationPolicy:
        """The policy of a mode for the text encoder, whose `covered` layers it quantizes.

        Raises `InvalidMode` for an unknown mode, `MissingExtra` for one whose library is not installed.
        """
        format = format_of_text_encoder_mode(name)
        _check_is_installed(name, format)
        return cls._of(name, Assignment(format, Network.of(covered)))

    @classmethod
    def prequantized(cls, tensors: Mapping[str, TensorInfo], *, fp8_mm: bool = False) -> QuantizationPolicy | None:
        """The policy of a network whose file is quantized already, or None where it is not.

        `tensors` has dtype and shape by name in the network's module; `fp8_mm` multiplies as fp8-scaled-mm.
        """
        file = detect(tensors)
        return None if file is None else cls._of_file(file, PrequantizedMMLinear if fp8_mm else PrequantizedLinear)

    @classmethod
    def from_mode(
        cls, name: str, keep_bf16_blocks: frozenset[int] = frozenset(), *, int8_mm: bool = False
    ) -> QuantizationPolicy:
        """The policy of a mode for the diffusion transformer; see `for_network` for the connectors.

        Raises `InvalidMode` for an unknown mode, `MissingExtra` for one whose library is not installed.
        """
        format = format_of_mode(name)
        if int8_mm:
            if name != "int8":
                raise InvalidMode(f"int8 x int8 was asked for with the mode {name}: use it with int8.")
            format = Int8MMLinear
        _check_is_installed(name, format)
        return cls._of(name, Assignment(format, keep_bf16_blocks=keep_bf16_blocks))

    def for_network(self, network: Network) -> QuantizationPolicy:
        """The same mode for another network; a policy made from a file belongs to the network it was made for."""
        if not isinstance(self.sd_ops, ConvertTensors):
            raise ValueError("make a policy from the tensors of each network of a prequantized file")
        return self._of(self.mode, replace(self.sd_ops.assignment, network=network))

    def convert(self, key: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        """What is stored for the parameter `key`, on the tensor's device; the same bits on every device."""
        return self.sd_ops(key, tensor)

    def format_of(self, layer: str) -> Format | None:
        """What a layer becomes; None where it is left as it is, or where the file has decided."""
        return self.sd_ops.assignment.of(layer) if isinstance(self.sd_ops, ConvertTensors) else None

    def apply(self, module: nn.Module) -> None:
        """Give the covered linears their format in place: their layout on `meta`, else their quantized values."""
        for operation in self.module_ops:
            operation(module)

    def check_device(self, device: torch.device | str) -> None:
        """Raises `InvalidMode`, naming a mode that works, where the device cannot multiply this way."""
        self.format.check_device(self.mode, torch.device(device))

    @classmethod
    def _of(cls, mode: str, assignment: Assignment) -> QuantizationPolicy:
        return cls(mode, assignment.format, ConvertTensors(assignment), (ReplaceLinears(assignment),))

    @classmethod
    def _of_file(cls, file: Prequantized, format: type[PrequantizedLinear]) -> QuantizationPolicy:
        return cls("prequantized", format, KeepAsStored(), (TakeLayoutOfFile(file, format),))


MODULE_OF_EXTRA = {"quanto": "optimum.quanto", "bnb": "bitsandbytes"}


def _check_is_installed(mode: str, format: Format) -> None:
    if format.extra is not None and not _is_installed(format.extra):
        raise MissingExtra(f"The quantization mode {mode}", format.extra)


def _is_installed(extra: str) -> bool:
    try:
        return importlib.util.find_spec(MODULE_OF_EXTRA[extra]) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
