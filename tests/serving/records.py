"""Many finished jobs, written past the store because one commit each would take minutes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

REQUEST = {"prompt": "A robot speaks. " * 60, "width": 960, "height": 544, "num_frames": 97, "seed": 1}


def fill(path: Path, count: int, now: float) -> None:
    """`count` completed jobs of 1 MB each, the last one finished a minute ago, one every second before it."""
    request = json.dumps(REQUEST)
    rows = (
        (f"video_{number:032x}", now - 60 - count + number, now - 60 - count + number, request)
        for number in range(count)
    )
    db = sqlite3.connect(path)
    with db:
        db.executemany(
            "INSERT INTO jobs (id, state, waited_for, created_at, finished_at, request, result, bytes) "
            "VALUES (?, 'completed', 0, ?, ?, ?, '{}', 1000000)",
            rows,
        )
    db.close()
