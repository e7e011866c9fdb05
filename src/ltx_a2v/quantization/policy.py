"""How the linears of one network are stored, as one value with two sides: `convert` for tensors, `apply` for a module.

Both sides ask the same `format_of`, and the layout of a format comes from the function that quantizes: they cannot
drift.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ltx_a2v.errors import InvalidMode, InvalidModel, MissingExtra
from ltx_a2v.quantization.covered import TEXT_ENCODER, TRANSFORMER, Coverage
from ltx_a2v.quantization.linear import Format, reassign
from ltx_a2v.quantization.modes import format_of_mode, format_of_text_encoder_mode
from ltx_a2v.quantization.prequantized import (
    Prequantized,
    PrequantizedLinear,
    PrequantizedMMLinear,
    TensorInfo,
    detect,
)


@dataclass(frozen=True)
class QuantizationPolicy:
    """`format` for the covered layers of one network; activations keep their dtype, bf16 or float32."""

    mode: str
    format: Format
    covered: Coverage | Prequantized = TRANSFORMER
    keep_bf16_blocks: frozenset[int] = frozenset()
    already_stored: bool = False
    """The file holds what `convert` would give; `convert` then changes nothing."""

    @classmethod
    def from_mode(
        cls, name: str, keep_bf16_blocks: frozenset[int] = frozenset(), *, covered: Coverage = TRANSFORMER
    ) -> QuantizationPolicy:
        """The policy of a mode of the diffusion transformer, or of the connectors with their `covered` layers.

        Raises `InvalidMode` for an unknown mode, `MissingExtra` for one whose library is not installed.
        """
        format = format_of_mode(name)
        _check_is_installed(name, format)
        return cls(name, format, covered, keep_bf16_blocks)

    @classmethod
    def for_text_encoder(cls, name: str, covered: Coverage = TEXT_ENCODER) -> QuantizationPolicy:
        """The policy of a mode of the text encoder.

        Raises `InvalidMode` for an unknown mode, `MissingExtra` for one whose library is not installed.
        """
        format = format_of_text_encoder_mode(name)
        _check_is_installed(name, format)
        return cls(name, format, covered)

    @classmethod
    def prequantized(cls, tensors: Mapping[str, TensorInfo], *, fp8_mm: bool = False) -> QuantizationPolicy | None:
        """The policy of a network that is quantized in its file; None where it is not.

        `tensors` has dtype and shape by name in the network's module; `fp8_mm` multiplies as fp8-scaled-mm. Raises
        `InvalidModel` where scales are missing.
        """
        file = detect(tensors)
        format = PrequantizedMMLinear if fp8_mm else PrequantizedLinear
        return None if file is None else cls("prequantized", format, file, already_stored=True)

    def of_stored_file(self) -> QuantizationPolicy:
        """The same for a file that holds the stored tensors."""
        return replace(self, already_stored=True)

    def format_of(self, layer: str) -> Format | None:
        """The format that a layer is converted to; None where it stays as it is."""
        if isinstance(self.covered, Prequantized):
            return self.format if self.covered.covers(layer) else None
        return self.format if self.covered.covers(layer, self.keep_bf16_blocks) else None

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        """What is stored for the parameter `name`, on the tensor's device; the same bits on every device.

        Raises `InvalidModel` for a covered tensor that is not a float.
        """
        layer, _, leaf = name.rpartition(".")
        format = None if self.already_stored else self.format_of(layer)
        if format is None:
            return [(name, tensor)]
        _check_is_unquantized(name, tensor)
        return [(f"{layer}.{stored}", value) for stored, value in format.store(leaf, tensor).items()]

    def apply(self, module: nn.Module) -> None:
        """Give the covered linears their format in place: their layout on `meta`, else their quantized values.

        Raises `InvalidMode` where a block that is to keep bf16 does not exist.
        """
        linears = {name: child for name, child in module.named_modules() if type(child) is nn.Linear}
        self._check_kept_blocks_exist(linears)
        for name, linear in linears.items():
            format = self.format_of(name)
            if format is not None:
                layer = reassign(linear, format)
                if isinstance(self.covered, Prequantized):
                    self.covered.add_input_scale(name, layer)

    def check_device(self, device: torch.device | str) -> None:
        """Raises `InvalidMode`, naming a mode that works, where the device cannot multiply this way."""
        self.format.check_device(self.mode, torch.device(device))

    def _check_kept_blocks_exist(self, layers: Iterable[str]) -> None:
        covered, kept = self.covered, self.keep_bf16_blocks
        if isinstance(covered, Prequantized) or not covered.keeps_blocks:
            return
        blocks = {block for layer in layers if (block := covered.block_of(layer)) is not None}
        if not kept <= blocks:
            last = max(blocks, default=0)
            raise InvalidMode(
                f"Block {min(kept - blocks)} cannot be kept in bf16: the transformer has blocks 0 to {last}."
            )


def _check_is_unquantized(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InvalidModel(f"{name} is already quantized (stored as {tensor.dtype}): use a bf16 checkpoint.")


_MODULE_OF_EXTRA = {"quanto": "optimum.quanto", "bnb": "bitsandbytes"}


def _check_is_installed(mode: str, format: Format) -> None:
    if format.extra is not None and not _is_installed(format.extra):
        raise MissingExtra(f"The quantization mode {mode}", format.extra)


def _is_installed(extra: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULE_OF_EXTRA[extra]) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
