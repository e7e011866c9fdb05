"""Spans of time and amounts of bytes as people write them."""

from __future__ import annotations

import math
import re

from ltx_a2v.errors import InvalidRequest

NEVER = math.inf

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def parse_duration(value: str | float) -> float:
    """Seconds from "10m", "1h30m", 300 or "300"; anything negative is `NEVER` (Ollama's convention)."""
    if isinstance(value, bool):
        raise InvalidRequest(f"{value!r} is not a span of time; write 300, '5m' or -1.")
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        return NEVER if seconds < 0 else seconds
    negative, text = text.startswith("-"), text.removeprefix("-")
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f"{value!r} is not a span of time; write 300, '300', '5m', '1h30m', 0 or -1.")
    return NEVER if negative else sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_bytes(text: str, flag: str, others: str = "") -> int:
    """`"12GiB"` -> 12 * 2**30, `"8G"` -> 8 * 10**9. Raises `InvalidRequest`, which names the `others` that would do."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower(), re.ASCII)
    if not found or float(found[1]) == 0:
        raise InvalidRequest(f"{flag} {text!r} is no amount of memory; write 12GiB, 8G{others} or bytes.")
    return int(float(found[1]) * _BYTES[found[2] or ""])
