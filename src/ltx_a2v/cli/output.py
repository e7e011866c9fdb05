"""The output of commands: results on stdout, messages on stderr. A stdout that cannot be written is an A2VError."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from ltx_a2v.errors import A2VError


def write_out(text: str) -> None:
    with stdout() as out:
        encoding = out.encoding or "utf-8"
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))


@contextmanager
def stdout() -> Iterator[TextIO]:
    """Raises `A2VError` where stdout is closed or does not take all that is written."""
    if sys.stdout is None:
        raise A2VError("Nothing can be printed: stdout is closed.")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # The rest of the buffer would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise A2VError(f"Nothing can be printed: stdout answers {error.strerror!r}.") from error


def say(message: str) -> None:
    """One line on stderr, where there is one."""
    with suppress(OSError, AttributeError):  # a closed stderr is None
        sys.stderr.write(message + "\n")
