"""A process that computes some passes of another one's videos: `python -m ltx_a2v.parallel.helper SOCKET HEARTBEAT …`.

The numbers are inherited file descriptors: the socket of `messages`, the memory of the heartbeat, and a `SharedMemory`
for each network that is streamed. When the process of the pipeline ends, this one does too.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection

from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.hardware.host_memory import raise_oom_score
from ltx_a2v.parallel.messages import BEAT_SECONDS, Heartbeat


def main() -> None:
    socket, heartbeat, *memory = map(int, sys.argv[1:])
    threading.Thread(target=_beat, args=(Heartbeat(heartbeat), os.getppid()), daemon=True, name="heartbeat").start()
    raise_oom_score()
    prepare_libraries()
    from ltx_a2v.parallel.helping import serve  # imports torch, while the heartbeat goes on

    serve(Connection(socket), memory)


def _beat(heartbeat: Heartbeat, parent: int) -> None:
    while os.getppid() == parent:
        heartbeat.beat()
        time.sleep(BEAT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
