"""The name of what computes, which decides whether two results can be compared. No torch is imported here."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from ltx_a2v.hardware.driver import gpu_name


def device_name(device: str | None) -> str:
    """The driver's name of the GPU, or without one that of the processor."""
    return gpu_name(device) or _processor()


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
