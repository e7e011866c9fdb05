"""Break a server in every way that tests/serving/faults.py knows, and print what came out as a Markdown table.

    uv run python scripts/fault_table.py            about five minutes, as root for the rows about full disks
    uv run python scripts/fault_table.py stopped_worker hung_step

The table stands in docs/security.md. Ends with status 1 where a row is not as it should be.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.serving.faults import FAULTS, NEED_MOUNT, Row

# Faults of connections come from their own module: add its functions to FAULTS in tests/serving/faults.py.


def rows(names: list[str]) -> Iterator[Row]:
    for fault in FAULTS:
        if names and fault.__name__ not in names:
            continue
        if fault in NEED_MOUNT and os.geteuid() != 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield fault(Path(folder), False)


def main() -> int:
    is_right = True
    sys.stdout.write("| what breaks | what came out |\n|---|---|\n")
    for row in rows(sys.argv[1:]):
        sys.stdout.write(f"| {row.fault} | {row.result}{'' if row.is_right else ' **WRONG**'} |\n")
        sys.stdout.flush()
        is_right &= row.is_right
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
