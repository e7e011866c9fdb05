"""The process that opens uploaded files: `python -m ltx_a2v.serving.work.checker [MOST_PIXELS,MOST_SECONDS]`.

One line of JSON per file on standard input, one per answer on standard output. It has no API key in its environment,
may write no files, and is the first to end where the host runs out of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ltx_a2v.errors import InvalidInput
from ltx_a2v.hardware.host_memory import raise_oom_score
from ltx_a2v.serving.http.inputs import Limits, check_upload

IDLE_SECONDS = 300.0
MEMORY = 4 * 2**30
"""Bytes of address space; a picture of 100 megapixels takes about a quarter."""


def main() -> None:
    pixels, seconds = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to the log
    _restrict()
    limits = Limits(pixels, seconds)
    while line := _next(sys.stdin.buffer):
        answers.write(json.dumps({"problem": _problem(json.loads(line), limits)}).encode() + b"\n")


def _restrict() -> None:
    raise_oom_score()
    for kind, limit in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # a lower limit is set already
            resource.setrlimit(kind, (limit, limit))


def _next(lines: BinaryIO) -> bytes:
    """Empty when the server has gone, or has not asked for a while."""
    return lines.readline() if select.select([lines], [], [], IDLE_SECONDS)[0] else b""


def _problem(question: dict[str, Any], limits: Limits) -> dict[str, Any] | None:
    try:
        check_upload(question["which"], Path(question["path"]), question["start"], limits)
    except InvalidInput as error:
        return error.as_json()
    return None


if __name__ == "__main__":
    main()
