"""Gives up what a process that opens others' files does not need. The kernel enforces it, whatever that process runs.

    rlimits       memory, CPU seconds per file, open files, file size 0, no new processes
    namespaces    an empty network; a process namespace that has ended, in which nothing can start
    Landlock      no file is written, made, removed or executed; no TCP; no signals to processes outside
    prctl, capset no new privileges, no capabilities

Namespaces, Landlock and prctl are Linux's; what a system lacks is reported, and the rest is enforced all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import struct
import sys
import time

if sys.platform != "win32":
    import resource

MEMORY = 4 * 2**30
"""Bytes of address space; a picture of 100 megapixels takes about a quarter."""
OPEN_FILES = 64

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""For the environment of a process that confines itself: libraries' threads would keep it out of namespaces."""

NETWORK, PROCESSES, WRITING, MUCH_MEMORY = "network access", "new processes", "writing files", "taking all memory"
ALL = (NETWORK, PROCESSES, WRITING, MUCH_MEMORY)

# Of Linux, the same on all architectures.
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of the kinds of file access by the first Landlock version that knows so many."""
_TCP, _SCOPES = 0b11, 0b11
_CAPABILITY_VERSION = 0x2008_0522
_CAP_DAC_READ_SEARCH = 1 << 2


def confine() -> list[str]:
    """Confine this process; it must have one thread only. Returns which of `ALL` could not be forbidden."""
    forbidden = set()
    if sys.platform == "linux":
        forbidden |= _enter_namespaces()
        _drop_capabilities()
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            forbidden |= _restrict_access()
    forbidden |= _limit_resources()
    return [name for name in ALL if name not in forbidden]


def allow_cpu_seconds(seconds: float) -> None:
    """End this process when it has computed for so many seconds from now on."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def _limit_resources() -> set[str]:
    if sys.platform == "win32":
        return set()
    forbidden = set()
    for kind, limit, name in (
        (resource.RLIMIT_CORE, 0, None),
        (resource.RLIMIT_NOFILE, OPEN_FILES, None),
        (resource.RLIMIT_FSIZE, 0, WRITING),
        (resource.RLIMIT_NPROC, 0, PROCESSES if os.getuid() != 0 else None),  # does not bind root
        (resource.RLIMIT_AS, MEMORY, MUCH_MEMORY),
    ):
        with contextlib.suppress(OSError, ValueError):  # a lower limit is set already
            resource.setrlimit(kind, (limit, limit))
        if name is not None and 0 <= resource.getrlimit(kind)[0] <= limit:
            forbidden.add(name)
    return forbidden


def _enter_namespaces() -> set[str]:
    """Root needs no user namespace, and keeps its access to files without one."""
    flags = _CLONE_NEWNET | _CLONE_NEWPID | _CLONE_NEWIPC
    if _libc().unshare(flags) != 0 and _libc().unshare(flags | _CLONE_NEWUSER) != 0:
        return set()  # containers often forbid it
    first = os.fork()  # its end is the end of the process namespace
    if first == 0:
        os._exit(0)
    os.waitpid(first, 0)
    return {NETWORK, PROCESSES}


def _drop_capabilities() -> None:
    """All but root's right to read files, which may be below --input-dir and another user's."""
    kept = _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    for keep in (kept, 0):  # refused where it was not there
        if _libc().capset(header, struct.pack("=6I", keep, keep, 0, 0, 0, 0)) == 0:
            return


def _restrict_access() -> set[str]:
    """Landlock denies each kind of access that a set of rules handles and that no rule allows; there are no rules."""
    call = _libc().syscall
    version = call(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return set()
    bits = max(bits for first, bits in _ACCESS_BITS.items() if first <= version)
    files = (2**bits - 1) & ~_READ_FILE & ~_READ_DIR
    rules = struct.pack("=QQQ", files, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    handle = call(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if handle < 0:
        return set()
    refused = call(_LANDLOCK_RESTRICT_SELF, handle, 0)
    os.close(handle)
    return set() if refused else {WRITING}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


if __name__ == "__main__":  # what `ltx-a2v doctor` asks
    sys.stdout.write(json.dumps(confine()))
