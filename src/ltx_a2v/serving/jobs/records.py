"""The job store: one table in SQLite, durable before a request is answered.

    queued ──claim──> in_progress ──> completed | failed | cancelled
       ^                  │
       └────requeue───────┘   the worker or the server died (once), or the server was stopped

`attempts` counts claims, so that a job which takes its process down twice is failed instead of tried for ever.
Thread-safe: one connection behind one lock.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ltx_a2v.errors import QueueFull

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("completed", "failed", "cancelled")
MAX_ATTEMPTS = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    waited_for INTEGER NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL,
    keep_alive TEXT,
    result TEXT,
    error_code TEXT,
    error_message TEXT,
    error_status INTEGER,
    expired INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, seq);
"""


@dataclass(frozen=True)
class Job:
    seq: int
    id: str
    state: State
    waited_for: bool
    """A client holds a connection open for the result, so the job has no use without it."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    cancel_requested: bool
    request: dict[str, Any]
    """Fields of a `GenerationRequest` without the output path."""
    keep_alive: str | None
    result: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    error_status: int | None
    expired: bool

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


def new_job_id() -> str:
    """Unguessable: 128 bits."""
    return f"video_{secrets.token_hex(16)}"


class JobStore:
    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(
        self, job_id: str, request: dict[str, Any], keep_alive: str | None, waited_for: bool, max_queue: int
    ) -> Job:
        """Raises `QueueFull`; when it returns, the job survives a power cut."""
        with self._transaction() as db:
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= max_queue:
                raise QueueFull(f"{waiting} jobs are waiting already, the most that are allowed; try again later.")
            db.execute(
                "INSERT INTO jobs (id, state, waited_for, created_at, request, keep_alive) VALUES (?,?,?,?,?,?)",
                (job_id, "queued", waited_for, time.time(), json.dumps(request), keep_alive),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())

    def get(self, job_id: str) -> Job | None:
        rows = self._select("WHERE id = ?", job_id)
        return rows[0] if rows else None

    def page(self, after: str | None, limit: int, newest_first: bool) -> list[Job]:
        """Up to `limit` jobs that follow `after` in the order asked for."""
        direction, comparison = ("DESC", "<") if newest_first else ("ASC", ">")
        if after is None:
            return self._select(f"ORDER BY seq {direction} LIMIT ?", limit)
        return self._select(
            f"WHERE seq {comparison} (SELECT seq FROM jobs WHERE id = ?) ORDER BY seq {direction} LIMIT ?", after, limit
        )

    def in_state(self, *states: State) -> list[Job]:
        """Oldest first."""
        return self._select(f"WHERE state IN ({','.join('?' * len(states))}) ORDER BY seq", *states)

    def count(self, state: State) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])

    def position(self, job: Job) -> int | None:
        """1 for the job that is run next; None when it does not wait."""
        if job.state != "queued":
            return None
        with self._lock:
            row = self._db.execute("SELECT count(*) FROM jobs WHERE state='queued' AND seq <= ?", (job.seq,)).fetchone()
        return int(row[0])

    def ids(self) -> set[str]:
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM jobs")}

    def claim(self) -> Job | None:
        """The oldest queued job, now in progress and one attempt older."""
        with self._transaction() as db:
            row = db.execute("SELECT id FROM jobs WHERE state='queued' ORDER BY seq LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state='in_progress', started_at=?, attempts=attempts+1 WHERE id=?",
                (time.time(), row["id"]),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id=?", (row["id"],)).fetchone())

    def requeue(self, job_id: str, *, forgive: bool) -> None:
        """Back to its place in the queue; `forgive` gives the attempt back (it was not the job's fault)."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state='queued', started_at=NULL, attempts=attempts-? "
                "WHERE id=? AND state='in_progress'",
                (int(forgive), job_id),
            )

    def complete(self, job_id: str, result: dict[str, Any]) -> None:
        self._finish(job_id, "completed", result=json.dumps(result))

    def fail(self, job_id: str, code: str, message: str, http_status: int) -> None:
        self._finish(job_id, "failed", error_code=code, error_message=message, error_status=http_status)

    def cancel(self, job_id: str) -> None:
        self._finish(job_id, "cancelled")

    def cancel_if_queued(self, job_id: str) -> bool:
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE jobs SET state='cancelled', finished_at=? WHERE id=? AND state='queued'", (time.time(), job_id)
            )
            return changed.rowcount == 1

    def request_cancel(self, job_id: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE jobs SET cancel_requested=1 WHERE id=?", (job_id,))

    def expire(self, job_id: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE jobs SET expired=1 WHERE id=?", (job_id,))

    def delete(self, job_id: str) -> bool:
        """Finished jobs only; whether it was there and is gone now."""
        with self._transaction() as db:
            gone = db.execute("DELETE FROM jobs WHERE id=? AND state IN ('completed','failed','cancelled')", (job_id,))
            return gone.rowcount == 1

    def _finish(self, job_id: str, state: State, **columns: str | int) -> None:
        names = "".join(f", {name}=?" for name in columns)
        with self._transaction() as db:
            db.execute(
                f"UPDATE jobs SET state=?, finished_at=?{names} WHERE id=? AND state IN ('queued','in_progress')",
                (state, time.time(), *columns.values(), job_id),
            )

    def _select(self, clause: str, *values: object) -> list[Job]:
        with self._lock:
            return [_job(row) for row in self._db.execute(f"SELECT * FROM jobs {clause}", values)]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _job(row: sqlite3.Row) -> Job:
    fields = dict(row)
    fields["request"] = json.loads(fields["request"])
    fields["result"] = json.loads(fields["result"]) if fields["result"] else None
    for flag in ("waited_for", "cancel_requested", "expired"):
        fields[flag] = bool(fields[flag])
    return Job(**fields)
