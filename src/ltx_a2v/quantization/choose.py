"""Chooses the policies of a checkpoint's networks from the requested mode and the stored format of the file.

The stored format is read from the metadata that `ltx-a2v quantize` writes, or recognised by e4m3 weights with scales;
never from the file's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltx_a2v.checkpoint.safetensors_file import TensorEntry
from ltx_a2v.errors import InvalidMode, InvalidModel, named
from ltx_a2v.quantization.covered import Coverage
from ltx_a2v.quantization.linear import Format
from ltx_a2v.quantization.modes import MODES
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.versions import Covered, CoveredLayers

METADATA_KEY = "ltx_a2v_quantization"
"""`{"mode": "int8", "keep_bf16_blocks": [0]}`"""

_SAME_STORAGE = ({"fp8-scaled", "fp8-scaled-mm"},)
"""Modes that differ only in how they multiply read each other's files."""
_CONNECTORS_STAY_BF16 = ("none", "fp8-cast")
"""The reference's fp8-cast leaves the connectors in bf16; equal results are the point of that mode. The other modes
store them as int8: the bytes of fp8, a third of its error."""


@dataclass(frozen=True)
class Stored:
    """The quantization metadata of a file written by `ltx-a2v quantize`."""

    mode: str
    keep_bf16_blocks: frozenset[int]


def choose_policies(
    wanted: str | None,
    keep_bf16_blocks: frozenset[int],
    path: Path,
    stored: Stored | None,
    transformer: Mapping[str, TensorEntry],
    connectors: Mapping[str, TensorEntry],
    covered: Covered,
) -> tuple[QuantizationPolicy, QuantizationPolicy]:
    """The transformer's and the connectors'; raises `InvalidMode` when the file is quantized in another mode than
    wanted."""
    if stored is not None:
        mode = _agreed(wanted, stored.mode, path)
        if keep_bf16_blocks and keep_bf16_blocks != stored.keep_bf16_blocks:
            kept = ",".join(str(block) for block in sorted(stored.keep_bf16_blocks)) or "no blocks"
            raise InvalidMode(f"{path} was quantized with {kept} kept in bf16; leave {named('keep_bf16_blocks')} out.")
        transformer_policy, connectors_policy = _policies(mode, stored.keep_bf16_blocks, covered)
        return transformer_policy.of_stored_file(), connectors_policy.of_stored_file()
    infos = {name: (entry.dtype, entry.shape) for name, entry in transformer.items()}
    found = QuantizationPolicy.prequantized(infos, fp8_mm=wanted == "fp8-scaled-mm")
    if found is not None:
        if wanted not in (None, "fp8-scaled", "fp8-scaled-mm"):
            raise InvalidMode(
                f"{path} comes quantized to fp8 with scales: use fp8-scaled or fp8-scaled-mm with it, not {wanted}."
            )
        if keep_bf16_blocks:
            raise InvalidMode(
                f"{path} comes quantized and its blocks stay as they are; leave {named('keep_bf16_blocks')} out."
            )
        infos = {name: (entry.dtype, entry.shape) for name, entry in connectors.items()}
        others = QuantizationPolicy.prequantized(infos, fp8_mm=wanted == "fp8-scaled-mm")
        plain = QuantizationPolicy.from_mode("none", covered=Coverage.of(covered.connectors))
        return found, others or plain.of_stored_file()
    return _policies(wanted or "none", keep_bf16_blocks, covered)


def choose_text_policy(
    wanted: str | None, path: Path, stored: Stored | None, covered: CoveredLayers
) -> QuantizationPolicy:
    """The text encoder's; raises `InvalidMode` when its file is quantized in another mode than wanted."""
    if stored is None:
        return QuantizationPolicy.for_text_encoder(wanted or "none", Coverage.of(covered))
    mode = _agreed(wanted, stored.mode, path, "text_encoder_quantization")
    return QuantizationPolicy.for_text_encoder(mode, Coverage.of(covered)).of_stored_file()


def _agreed(wanted: str | None, mode: str, path: Path, setting: str = "transformer_quantization") -> str:
    if wanted is None or wanted == mode:
        return mode
    if any({wanted, mode} <= same for same in _SAME_STORAGE):
        return wanted
    raise InvalidMode(f"{path} is quantized as {mode}: use {named(setting)} {mode} or leave it out.")


def _policies(
    mode: str, keep_bf16_blocks: frozenset[int], covered: Covered
) -> tuple[QuantizationPolicy, QuantizationPolicy]:
    connectors_mode = "none" if mode in _CONNECTORS_STAY_BF16 else "int8"
    return (
        QuantizationPolicy.from_mode(
            mode, keep_bf16_blocks, covered=Coverage.of(covered.transformer, keeps_blocks=True)
        ),
        QuantizationPolicy.from_mode(connectors_mode, covered=Coverage.of(covered.connectors)),
    )


def read_stored(path: Path, metadata: Mapping[str, str], modes: Mapping[str, Format] = MODES) -> Stored | None:
    """What the metadata of a file says; None where it says nothing. Raises `InvalidModel` for a mode not in `modes`."""
    raw = metadata.get(METADATA_KEY)
    if raw is None:
        return None
    try:
        content = json.loads(raw)
        mode, kept = content["mode"], content["keep_bf16_blocks"]
    except (ValueError, KeyError, TypeError):
        mode, kept = None, None
    if not isinstance(mode, str) or not isinstance(kept, list) or any(type(block) is not int for block in kept):
        raise InvalidModel(f"{path} has damaged quantization metadata: {raw[:60]!r}; quantize it again.")
    if mode not in modes:
        raise InvalidModel(
            f"{path} says it is quantized as {mode!r}, which this version does not know; quantize it again."
        )
    return Stored(mode, frozenset(kept))


def write_stored(stored: Stored) -> dict[str, str]:
    content = {"mode": stored.mode, "keep_bf16_blocks": sorted(stored.keep_bf16_blocks)}
    return {METADATA_KEY: json.dumps(content)}
