"""A machine with two GPUs and a slice of one, as the stand-in for the driver's library in this folder answers it."""

from __future__ import annotations

from pathlib import Path

STUB = Path(__file__).parent
GIB = 2**30
FIRST = {
    "total": 96 * GIB,
    "free": 50 * GIB,
    "capability": [12, 0],
    "processes": {"41": 6 * GIB, "42": 30 * GIB, "43": 10 * GIB},
}
SECOND = {"total": 24 * GIB, "free": 23 * GIB, "processes": {"44": GIB}}
SLICE = {"total": 12 * GIB, "free": 10 * GIB, "processes": {}}
ANSWERS = {"GPU-1111-aaaa": FIRST, "GPU-2222-bbbb": SECOND, "MIG-3333": SLICE}
