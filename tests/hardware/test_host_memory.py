"""How much host memory there is, on hosts and in containers that are folders here."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v.hardware.host_memory import death_by_signal, host_memory_available, host_memory_total

GIB = 2**30
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 25 0:29 {root} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
CPU = "34 25 0:30 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n"
UNLIMITED_V1 = str(2**63 - 4096)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """64 GiB, of which 48 are available."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable:   {48 * 2**20} kB\n")
    return tmp_path


def group(host: Path, folder: str, limit: str, used: int, cached: int = 0, v1: bool = False) -> None:
    path = host / "sys/fs/cgroup" / folder
    path.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    (path / names[0]).write_text(f"{limit}\n")
    (path / names[1]).write_text(f"{used}\n")
    total = "total_" if v1 else ""
    own = f"inactive_file 7\nactive_file {GIB}\n" if v1 else ""
    (path / "memory.stat").write_text(f"anon 5\n{own}{total}inactive_file {cached}\n{total}active_file 0\n")


def process(host: Path, cgroup: str, mounts: str) -> None:
    (host / "proc/self/cgroup").write_text(cgroup)
    (host / "proc/self/mountinfo").write_text(mounts)


def test_a_host_without_limits(host: Path) -> None:
    assert (host_memory_available(host), host_memory_total(host)) == (48 * GIB, 64 * GIB)
    process(host, "0::/user.slice\n", V2.format(root="/"))
    group(host, "user.slice", "max", 20 * GIB)
    assert (host_memory_available(host), host_memory_total(host)) == (48 * GIB, 64 * GIB)


def test_a_container_with_its_own_view(host: Path) -> None:
    """Version 2 with a cgroup namespace: the container's group is the top."""
    process(host, "0::/\n", V2.format(root="/"))
    group(host, "", str(16 * GIB), 6 * GIB)
    assert (host_memory_available(host), host_memory_total(host)) == (10 * GIB, 16 * GIB)


def test_what_was_read_from_files_is_not_used(host: Path) -> None:
    process(host, "0::/\n", V2.format(root="/"))
    group(host, "", str(16 * GIB), 15 * GIB, cached=12 * GIB)
    assert host_memory_available(host) == 13 * GIB


def test_the_tightest_of_the_groups_around(host: Path) -> None:
    process(host, "0::/pod/box\n", V2.format(root="/"))
    group(host, "pod/box", "max", GIB)
    group(host, "pod", str(8 * GIB), 7 * GIB)
    group(host, "", str(32 * GIB), 8 * GIB)
    assert (host_memory_available(host), host_memory_total(host)) == (GIB, 8 * GIB)


def test_the_host_has_less_than_the_container_may_take(host: Path) -> None:
    process(host, "0::/\n", V2.format(root="/"))
    group(host, "", str(500 * GIB), GIB)
    assert (host_memory_available(host), host_memory_total(host)) == (48 * GIB, 64 * GIB)


def test_more_used_than_allowed_is_nothing_left(host: Path) -> None:
    process(host, "0::/\n", V2.format(root="/"))
    group(host, "", str(GIB), 2 * GIB)
    assert host_memory_available(host) == 0


@pytest.mark.parametrize(("path", "root"), [("/box", "/"), ("/docker/box", "/docker"), ("/elsewhere", "/docker/box")])
def test_version_1(host: Path, path: str, root: str) -> None:
    process(host, f"11:cpu:/box\n9:memory:{path}\n0::/none\n", CPU + V1.format(root=root))
    group(host, "memory", UNLIMITED_V1 if path != "/elsewhere" else str(4 * GIB), 3 * GIB, v1=True)
    if path != "/elsewhere":
        group(host, "memory/box", str(4 * GIB), 3 * GIB, cached=GIB, v1=True)
    left = GIB if path == "/elsewhere" else 2 * GIB
    assert (host_memory_available(host), host_memory_total(host)) == (left, 4 * GIB)


def test_a_system_without_proc(tmp_path: Path) -> None:
    """As macOS; the C library knows the total."""
    total = host_memory_total(tmp_path)
    assert total > GIB
    assert 0 < host_memory_available(tmp_path) < total


def test_this_machine() -> None:
    assert 0 < host_memory_available() <= host_memory_total()


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux kills by score")
def test_a_process_offers_itself_first() -> None:
    script = "from ltx_a2v.hardware.host_memory import raise_oom_score as r; r()\n"
    script += "print(open('/proc/self/oom_score_adj').read())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert int(done.stdout) == 500


def test_memory_is_the_likely_cause_of_a_kill() -> None:
    assert death_by_signal(signal.SIGKILL) == (
        "was killed by SIGKILL, most likely because the host's memory was used up"
    )
    assert death_by_signal(signal.SIGSEGV) == "was killed by SIGSEGV"
