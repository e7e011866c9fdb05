"""Durations and sizes as people write them."""

from __future__ import annotations

import math
import re

from pydantic import ByteSize, TypeAdapter

from ltx_a2v.errors import InvalidMode, InvalidRequest

NEVER = math.inf
MAX_BLOCKS = 1000
"""Far above any network's depth: a slip in a range is an error, not a list of a billion numbers."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = TypeAdapter(ByteSize)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?\s*", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def parse_duration(value: str | float, field: str = "") -> float:
    """Seconds from "10m", "1h30m", 300 or "300"; anything negative is `NEVER` (Ollama's convention)."""
    if isinstance(value, bool):
        raise InvalidRequest(field, value, "is not a duration; write 300, '5m' or -1")
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        return NEVER if seconds < 0 else seconds
    negative, text = text.startswith("-"), text.removeprefix("-")
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(field, value, "is not a duration; write 300, '300', '5m', '1h30m', 0 or -1")
    return NEVER if negative else sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_bytes(text: str, field: str, others: str = "") -> int:
    """Bytes from "12GiB" (12 * 2**30) or "8G" (8 * 10**9).

    Raises `InvalidRequest`, which names the `others` that the field takes.
    """
    found = _AMOUNT.fullmatch(text)
    if not found or float(found[1]) == 0:
        raise InvalidRequest(field, text, f"is not an amount of memory; write 12GiB, 8G{others}")
    if not found[2]:
        raise InvalidRequest(field, text, f"has no unit; write {found[1]}GiB")
    unit = found[2] if found[2].lower().endswith("b") else f"{found[2]}B"
    return int(_BYTES.validate_python(found[1] + unit))


def parse_blocks(text: str) -> frozenset[int]:
    """`"0,43-47"` -> {0, 43, 44, 45, 46, 47}; empty text is no blocks."""
    blocks: set[int] = set()
    for part in text.split(",") if text.strip() else []:
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < MAX_BLOCKS:
            raise InvalidMode(
                f"{text!r} is not a list of blocks: give numbers and ranges from low to high, as 0,43-47."
            )
        blocks.update(range(first, last + 1))
    return frozenset(blocks)
