"""Host memory: how much this process may use within its container, and which process the kernel kills without it.

Linux reports it in /proc/meminfo. A container's limit is in its control group (cgroup, version 1 or 2) or in one that
encloses it; the smallest remainder of all of them counts. Elsewhere (macOS) the C library gives the total.
No torch is imported here.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
SHARE_AVAILABLE = 0.5
"""Share of the total that is assumed available where the system does not report it."""
OOM_SCORE = 500
"""Of 1000: the kernel's killer takes this process before others that use up to half of the memory more."""


def host_memory_available(root: Path = ROOT) -> int:
    """Bytes that can be allocated without swapping."""
    known = _meminfo(root, "MemAvailable")
    available = int(_physical_memory() * SHARE_AVAILABLE) if known is None else known
    return min([available, *(group.room for group in _groups(root))])


def host_memory_total(root: Path = ROOT) -> int:
    """Bytes of the host, or of the container where its limit is lower."""
    known = _meminfo(root, "MemTotal")
    total = _physical_memory() if known is None else known
    return min([total, *(group.limit for group in _groups(root))])


def raise_oom_score() -> None:
    """Let the kernel kill this process first where memory runs out, instead of any other on the host."""
    with suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def death_by_signal(number: int) -> str:
    """What follows "the process": the signal's name, and memory as the likely cause of SIGKILL."""
    name = signal.Signals(number).name
    if number != signal.SIGKILL:
        return f"was killed by {name}"
    return f"was killed by {name}, most likely because the host's memory was used up"


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _meminfo(root: Path, field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", (root / "proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


@dataclass(frozen=True)
class _Group:
    """The memory of one control group, in bytes."""

    limit: int
    used: int

    @property
    def room(self) -> int:
        return max(self.limit - self.used, 0)


def _groups(root: Path) -> Iterator[_Group]:
    """This process's control group and those around it, where they have a limit."""
    for folder, limit, usage, cached in _folders(root):
        try:
            most = int((folder / limit).read_text())
            used = int((folder / usage).read_text())
            stat = (folder / "memory.stat").read_text()
        except (OSError, ValueError):  # the outermost group has none; "max" is no limit
            continue
        # The page cache counts as used, but is reclaimed on demand.
        reclaimable = sum(int(size) for size in re.findall(rf"^{cached}(?:in)?active_file (\d+)$", stat, re.MULTILINE))
        yield _Group(most, max(used - reclaimable, 0))


def _folders(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Innermost first: folder, its files of limit and usage, and how memory.stat's totals begin."""
    try:
        own = (root / "proc/self/cgroup").read_text()
        mounts = (root / "proc/self/mountinfo").read_text()
    except OSError:
        return
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            kind, names = "cgroup2", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            kind, names = "cgroup", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        for mounted, place in _mounts(mounts, kind):
            for inner in _way_up(path, mounted):
                yield root / place.lstrip("/") / inner, *names


def _mounts(mountinfo: str, kind: str) -> Iterator[tuple[str, str]]:
    """The group that is mounted, and where. A line: id parent device ROOT PLACE options ... - KIND source OPTIONS."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, filesystem = left.split(), right.split()
        if filesystem[:1] == [kind] and (kind == "cgroup2" or "memory" in filesystem[-1].split(",")):
            yield fields[3], fields[4]


def _way_up(path: str, mounted: str) -> list[PurePosixPath]:
    """From the group `path` to the mounted one, as seen from there."""
    try:
        inner = PurePosixPath(path).relative_to(mounted)
    except ValueError:  # the group's name outside of the container
        inner = PurePosixPath()
    return [inner, *inner.parents]


def children_of(pid: int) -> list[int]:
    """Ids of the processes that a process has started; none where the system does not say."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    with suppress(OSError):  # a thread, or the process, has ended
        return [int(child) for each in lists for child in each.read_text().split()]
    return []
