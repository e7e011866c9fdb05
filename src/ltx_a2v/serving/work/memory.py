"""Host memory that all workers of a server share, so that copies of streamed weights are on the machine once.

The server holds the files, and no worker's death frees them. So they are emptied whenever no worker is left that has
worked: one that has may have mapped them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ltx_a2v.residency.shared_memory import memory_file


class MachineMemory:
    """A memory file for each network that is streamed; none for a lone worker, which has its own memory."""

    def __init__(self, networks: int) -> None:
        self.files = tuple(file for file in (memory_file() for _ in range(networks)) if file is not None)

    def free_unless(self, in_use: Iterable[bool]) -> None:
        """Free the copies, unless a worker may use them."""
        if not any(in_use):
            for file in self.files:
                os.ftruncate(file, 0)

    def close(self) -> None:
        for file in self.files:
            os.close(file)
        self.files = ()
