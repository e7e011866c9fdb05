"""How much device memory there is to use: what the user said, and what others have left."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.hardware import driver
from ltx_a2v.settings.defaults import VRAM_HEADROOM
from ltx_a2v.settings.units import parse_bytes

if TYPE_CHECKING:  # the server's HTTP process checks budgets, and never imports torch
    import torch

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """`12GiB`, `60%` (of the device's memory), `auto` (what is free, less the headroom) or `unlimited`."""

    text: str = "auto"
    headroom: int = VRAM_HEADROOM

    def __post_init__(self) -> None:
        if self.text not in ("auto", "unlimited") and not self.text.endswith("%"):
            parse_bytes(self.text, "--vram-budget", ", 60%, auto, unlimited")
        elif self.text.endswith("%"):
            self._share()

    def resolve(self, device: torch.device, ours: int = 0) -> int | None:
        """Bytes that may be used on `device`, of which `ours` are in use already; None for no limit.

        A CPU has no other users to leave room for, so `auto` is no limit there.
        """
        if self.text == "unlimited" or (self.text == "auto" and device.type != "cuda"):
            return None
        if self.text == "auto":
            import torch

            return max(torch.cuda.mem_get_info(device)[0] + ours - self.headroom, 0)
        if self.text.endswith("%"):
            return int(total_memory(device) * self._share())
        return parse_bytes(self.text, "--vram-budget")

    def _share(self) -> float:
        try:
            share = float(self.text[:-1]) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise InvalidRequest(f"--vram-budget {self.text!r}: give more than 0% and at most 100%.")
        return share


@contextmanager
def capped(device: torch.device, limit: int | None) -> Iterator[None]:
    """Meanwhile the allocator takes no more than `limit` bytes from a GPU: before it would, it gives back what it keeps
    for later. Tensors alone within a budget are not enough; at 6 GiB, 6.81 were reserved for them (H100)."""
    if device.type != "cuda" or limit is None:
        yield
        return
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(min(limit / total_memory(device), 1.0), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


def beside(others: str, device: torch.device, headroom: int) -> str:
    """The budget that is left where other services need `others` of the device's memory; raises `InvalidRequest`."""
    total, needed = total_memory(device), parse_bytes(others, "--coexist")
    left = total - needed - headroom
    if left <= 0:
        raise InvalidRequest(
            f"--coexist {others}: beside that and {gib(headroom)} of headroom nothing is left of this device's "
            f"{gib(total)}; give what the others need of it."
        )
    return f"{left / GIB:.2f}GiB"


def total_memory(device: torch.device) -> int:
    """Of the GPU; of the host where a CPU stands in for one."""
    if device.type != "cuda":
        return host_memory_total()
    import torch

    return int(torch.cuda.mem_get_info(device)[1])


def host_memory_available() -> int:
    return _meminfo("MemAvailable")


def host_memory_total() -> int:
    return _meminfo("MemTotal")


def _meminfo(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 0


def at_least(count: int) -> str:
    """As `gib`, rounded up: a budget of that much is enough."""
    unit, name, digits = (GIB, "GiB", 2) if count >= GIB / 10 else (2**20, "MiB", 1)
    return f"{math.ceil(count / unit * 10**digits) / 10**digits:.{digits}f} {name}"


def gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def memory_holders(device: torch.device) -> str:
    """Who holds the GPU's memory, as `python3 (pid 123): 20.10 GiB, …`; empty where that cannot be known."""
    if device.type != "cuda":
        return ""
    return ", ".join(f"{_program(pid)}: {gib(held)}" for pid, held in driver.memory_holders(str(device)))


def _program(pid: int) -> str:
    if pid == os.getpid():
        return f"this process (pid {pid})"
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    except OSError:  # of another namespace
        return f"pid {pid}"
