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
from ltx_a2v.serving.http.inputs import Limits, check_retake, check_upload, inspect_upload
from ltx_a2v.serving.work.confinement import allow_cpu_seconds, confine

IDLE_SECONDS = 300.0
CPU_SECONDS = {"audio": 4.0, "image": 15.0, "video": 10.0, "retake": 10.0}
"""For one file. Sound opens in milliseconds; 40 megapixels of JPEG 2000 or WebP took 5 s; of a video all
bytes are hashed, or all packets counted."""


def main() -> None:
    pixels, seconds = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to the log
    raise_oom_score()
    _use_one_thread()
    allowed = confine()
    limits = Limits(pixels, seconds)
    while line := _next(sys.stdin.buffer):
        answer = {**_answer(json.loads(line), limits), "allowed": allowed}
        answers.write(json.dumps(answer).encode() + b"\n")


def _use_one_thread() -> None:
    """The AVIF decoder would start one per core, which the confined process cannot."""
    with contextlib.suppress(ImportError):  # Pillow before 11.2
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _next(lines: BinaryIO) -> bytes:
    """Empty when the server has gone, or has not asked for a while."""
    return lines.readline() if select.select([lines], [], [], IDLE_SECONDS)[0] else b""


def _answer(question: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """`found` is of videos only."""
    which, path = question["which"], Path(question["path"])
    allow_cpu_seconds(CPU_SECONDS[which])
    try:
        if which == "video":
            return {"problem": None, "found": inspect_upload(path)}
        if which == "retake":
            part = question["part"]
            return {"problem": None, "found": check_retake(path, part["start"], part["end"], is_heard=part["is_heard"])}
        check_upload(which, path, question["start"], limits)
    except InvalidInput as error:
        return {"problem": error.as_json()}
    return {"problem": None}


if __name__ == "__main__":
    main()
