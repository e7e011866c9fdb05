"""Spans of time and amounts of bytes as people write them."""

from __future__ import annotations

import math
import re

from ltx_a2v.errors import InvalidRequest

NEVER = math.inf

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
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


def parse_bytes(text: str) -> int:
    """Bytes from "50GB", "1.5 GiB" or "1000"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match[2].upper() or "B" if match else ""
    if not match or unit not in _BYTES:
        raise InvalidRequest(f"{text!r} is not an amount of bytes; write '50GB' or '512MiB'.")
    return int(float(match[1]) * _BYTES[unit])
