"""Ctrl-C and SIGTERM: at once while libraries are imported, by an exception once there is something to clean up.

A library that is interrupted while it is imported answers in many ways, of which KeyboardInterrupt is only one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

STOPPED = "ltx-a2v: stopped; nothing was written."
EXIT_CODE = 130


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"{STOPPED}\n".encode())
    os._exit(EXIT_CODE)


def on_stop(answer: Callable[[int, FrameType | None], NoReturn]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, answer)


@contextmanager
def importing() -> Iterator[None]:
    """For imports of heavy libraries, while nothing is open yet."""
    on_stop(leave)
    try:
        yield
    finally:
        on_stop(interrupt)
