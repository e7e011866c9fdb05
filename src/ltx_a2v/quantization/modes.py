"""The modes of the two `--...-quantization` flags, by name. To add one, write its file and add a line here."""

from __future__ import annotations

from ltx_a2v.errors import InvalidMode
from ltx_a2v.quantization.bnb import BnbNf4Linear
from ltx_a2v.quantization.fp8_cast import Fp8CastLinear
from ltx_a2v.quantization.fp8_scaled import Fp8ScaledLinear
from ltx_a2v.quantization.fp8_scaled_mm import Fp8ScaledMMLinear
from ltx_a2v.quantization.int4 import Int4Linear
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

TEXT_ENCODER_MODES: dict[str, Format] = {
    "none": UnquantizedLinear,
    "int4": Int4Linear,
    "bnb-nf4": BnbNf4Linear,
}


def format_of_mode(mode: str) -> Format:
    if mode not in MODES:
        raise InvalidMode(f"There is no quantization mode {mode!r}: choose one of {', '.join(MODES)}.")
    return MODES[mode]


def format_of_text_encoder_mode(mode: str) -> Format:
    if mode not in TEXT_ENCODER_MODES:
        raise InvalidMode(
            f"There is no text encoder quantization {mode!r}: choose one of {', '.join(TEXT_ENCODER_MODES)}."
        )
    return TEXT_ENCODER_MODES[mode]


def mode_table() -> list[tuple[str, str, str, str]]:
    """(mode, stored, multiplied, summary) of every mode: the rows of the help and the docs."""
    return [(mode, format.stored, format.multiplied, format.summary) for mode, format in MODES.items()]
