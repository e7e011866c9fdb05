"""The process that opens uploaded files: `python -m ltx_a2v.serving.work.checker [MOST_PIXELS,MOST_SECONDS]`.

One line of JSON per file on standard input, one per answer on standard output. It has no API key in its environment,
is confined by the kernel (`confinement`), and is the first to end where the host runs out of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ltx_a2v.errors import InvalidInput
from ltx_a2v.hardware.host_memory import raise_oom_score
from ltx_a2v.serving.http.inputs import Limits, check_upload
from ltx_a2v.serving.work.confinement import allow_cpu_seconds, confine

IDLE_SECONDS = 300.0
CPU_SECONDS = {"audio": 4.0, "image": 15.0}
"""For one file. Sound opens in milliseconds; 40 megapixels of JPEG 2000 or WebP took 5 s."""


def main() -> None:
    pixels, seconds = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to the log
    raise_oom_score()
    _use_one_thread()
    allowed = confine()
    limits = Limits(pixels, seconds)
    while line := _next(sys.stdin.buffer):
        answer = {"problem": _problem(json.loads(line), limits), "allowed": allowed}
        answers.write(json.dumps(answer).encode() + b"\n")


def _use_one_thread() -> None:
    """The AVIF decoder would start one per core, which the confined process cannot."""
    with contextlib.suppress(ImportError):  # Pillow before 11.2
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _next(lines: BinaryIO) -> bytes:
    """Empty when the server has gone, or has not asked for a while."""
    return lines.readline() if select.select([lines], [], [], IDLE_SECONDS)[0] else b""


def _problem(question: dict[str, Any], limits: Limits) -> dict[str, Any] | None:
    allow_cpu_seconds(CPU_SECONDS[question["which"]])
    try:
        check_upload(question["which"], Path(question["path"]), question["start"], limits)
    except InvalidInput as error:
        return error.as_json()
    return None


if __name__ == "__main__":
    main()
