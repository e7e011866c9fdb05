"""How a linear's weight is stored and multiplied: a frozen policy value and one file per format."""

from ltx_a2v.quantization.covered import CONNECTORS, TEXT_ENCODER, TRANSFORMER, Coverage
from ltx_a2v.quantization.errors_report import relative_error
from ltx_a2v.quantization.linear import StoredLinear
from ltx_a2v.quantization.modes import MODES, TEXT_ENCODER_MODES, mode_table
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.settings.units import parse_blocks

__all__ = [
    "CONNECTORS",
    "MODES",
    "TEXT_ENCODER",
    "TEXT_ENCODER_MODES",
    "TRANSFORMER",
    "Coverage",
    "QuantizationPolicy",
    "StoredLinear",
    "mode_table",
    "parse_blocks",
    "relative_error",
]
