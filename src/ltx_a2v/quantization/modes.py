"""The modes of `--transformer-quantization`, by name. A new one is its file and a line here."""

from __future__ import annotations

from ltx_a2v.errors import InvalidMode
from ltx_a2v.quantization.fp8_cast import Fp8CastLinear
from ltx_a2v.quantization.fp8_scaled import Fp8ScaledLinear
from ltx_a2v.quantization.fp8_scaled_mm import Fp8ScaledMMLinear
from ltx_a2v.quantization.int8 import Int8Linear
from ltx_a2v.quantization.linear import Format
from ltx_a2v.quantization.quanto import Fp8QuantoLinear, Int4QuantoLinear, Int8QuantoLinear
from ltx_a2v.quantization.unquantized import UnquantizedLinear

MODES: dict[str, Format] = {
    "none": UnquantizedLinear,
    "fp8-cast": Fp8CastLinear,
    "fp8-scaled": Fp8ScaledLinear,
    "fp8-scaled-mm": Fp8ScaledMMLinear,
    "int8": Int8Linear,
    "int8-quanto": Int8QuantoLinear,
    "fp8-quanto": Fp8QuantoLinear,
    "int4-quanto": Int4QuantoLinear,
}


def format_of_mode(mode: str) -> Format:
    if mode not in MODES:
        raise InvalidMode(f"There is no quantization mode {mode!r}: choose one of {', '.join(MODES)}.")
    return MODES[mode]


def mode_table() -> list[tuple[str, str, str, str]]:
    """(mode, stored, multiplied, summary) of every mode: the rows of the help and the docs."""
    return [(mode, format.stored, format.multiplied, format.summary) for mode, format in MODES.items()]
