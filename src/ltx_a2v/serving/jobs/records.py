"""The job store: one table in SQLite, durable before a request is answered.

    queued ──claim──> in_progress ──> completed | failed | cancelled
       ^                  │
       └────requeue───────┘   the worker or the server died (once), or the server was stopped

`attempts` counts claims, so that a job that kills its process twice is failed instead of retried forever.
`owner` names the worker that a job in progress belongs to.
Thread-safe: one connection behind one lock. A write that the disk refuses raises `StorageFailed` and changes nothing.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ltx_a2v.errors import InvalidInput, QueueFull, StorageFailed
from ltx_a2v.serving.jobs import idempotency
from ltx_a2v.serving.jobs.storage import FULL, storage_failed

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("completed", "failed", "cancelled")

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
"""
_ADDED_COLUMNS = {
    "owner": "TEXT",
    "bytes": "INTEGER",
    "error_param": "TEXT",
    "webhook": "TEXT",
    "webhook_at": "REAL",
    "webhook_tries": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns that a database of an earlier version lacks."""
_INDEXES = """
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, seq);
CREATE INDEX IF NOT EXISTS jobs_with_files ON jobs (finished_at, seq, bytes)
    WHERE expired = 0 AND finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_unmeasured ON jobs (seq)
    WHERE expired = 0 AND finished_at IS NOT NULL AND bytes IS NULL;
CREATE INDEX IF NOT EXISTS jobs_with_webhook ON jobs (webhook_at) WHERE webhook_at IS NOT NULL;
"""
_TO_TELL = "state IN ('completed','failed','cancelled') AND webhook_at IS NOT NULL"
_WITH_FILES = "expired = 0 AND finished_at IS NOT NULL"


@dataclass(frozen=True)
class Job:
    """A snapshot of one record."""

    seq: int
    id: str
    state: State
    waited_for: bool
    """A client waits for the result on an open connection; when it leaves, the job is cancelled."""
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
    owner: str | None
    """The worker that runs it, or ran it last."""
    bytes: int | None
    """Size of its outputs and uploads; None until it was measured."""
    error_param: str | None
    """The field of a `GenerationRequest` that the error is about, where it is about one."""
    webhook: str | None
    """URL that is told when the job has ended."""
    webhook_at: float | None
    """Unix time from which on it is told, once the job has ended; None where there is nothing more to tell."""
    webhook_tries: int

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


def new_job_id() -> str:
    """Unguessable: 128 bits."""
    return f"video_{secrets.token_hex(16)}"


class JobStore:
    """The table of jobs. Raises `InvalidInput` where the file at `path` is damaged or no such database."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._open()
        except sqlite3.OperationalError as error:
            raise _failure(error) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
        finding = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding != "ok":
            raise self._damaged(finding)
        self._db.executescript(_SCHEMA)
        self._db.executescript(idempotency.SCHEMA)
        present = {row["name"] for row in self._db.execute("PRAGMA table_info(jobs)")}
        for name, kind in _ADDED_COLUMNS.items():
            if name not in present:
                self._db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
        self._db.executescript(_INDEXES)

    def _damaged(self, finding: str) -> InvalidInput:
        words = " ".join(finding.split())
        return InvalidInput(
            f"The job records in {self._path} are damaged ({words}): move that file, its -wal and -shm away to start "
            "with no jobs, or put a backup in its place; finished videos stay in --output-dir."
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(
        self,
        job_id: str,
        request: dict[str, Any],
        keep_alive: str | None,
        waited_for: bool,
        max_queue: int,
        key: idempotency.Key | None = None,
        webhook: str | None = None,
    ) -> Job:
        """The new job, or the one that was added with the same key. When it returns, the job survives a power cut.

        Raises `QueueFull`, and `Conflict` where the key came with another body.
        """
        with self._transaction() as db:
            if key is not None and (known := key.job_id(db)) is not None:
                return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (known,)).fetchone())
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= max_queue:
                raise QueueFull(f"{waiting} jobs are waiting already, the most that are allowed; try again later.")
            db.execute(
                "INSERT INTO jobs (id, state, waited_for, created_at, request, keep_alive, webhook, webhook_at) "
                "VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(job_id, "queued", waited_for, time.time(), json.dumps(request), keep_alive),
                    *(webhook, None if webhook is None else 0.0),
                ),
            )
            if key is not None:
                key.remember(db, job_id)
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

    def completed(self, limit: int) -> list[Job]:
        """The jobs that were completed last, newest first."""
        return self._select("WHERE state = 'completed' ORDER BY seq DESC LIMIT ?", limit)

    def in_state(self, *states: State) -> list[Job]:
        """Oldest first."""
        return self._select(f"WHERE state IN ({','.join('?' * len(states))}) ORDER BY seq", *states)

    def count(self, state: State) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])

    def position(self, job: Job) -> int | None:
        """1 for the job that runs next; None for a job that is not queued."""
        if job.state != "queued":
            return None
        with self._lock:
            row = self._db.execute("SELECT count(*) FROM jobs WHERE state='queued' AND seq <= ?", (job.seq,)).fetchone()
        return int(row[0])

    def ids(self) -> set[str]:
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM jobs")}

    def expired_ids(self) -> set[str]:
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM jobs WHERE expired = 1")}

    def claim(self, owner: str) -> Job | None:
        """Move the oldest queued job to in progress on `owner`, as one more attempt; None where none is queued."""
        with self._transaction() as db:
            row = db.execute("SELECT id FROM jobs WHERE state='queued' ORDER BY seq LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state='in_progress', owner=?, started_at=?, attempts=attempts+1 WHERE id=?",
                (owner, time.time(), row["id"]),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id=?", (row["id"],)).fetchone())

    def requeue(self, job_id: str, *, forgive: bool) -> None:
        """Return the job to its place in the queue. `forgive`: this attempt is not counted."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state='queued', started_at=NULL, attempts=attempts-? "
                "WHERE id=? AND state='in_progress'",
                (int(forgive), job_id),
            )

    def complete(self, job_id: str, result: dict[str, Any]) -> None:
        self._finish(job_id, "completed", result=json.dumps(result))

    def fail(self, job_id: str, code: str, message: str, http_status: int, field: str = "") -> None:
        self._finish(
            job_id, "failed", error_code=code, error_message=message, error_status=http_status, error_param=field
        )

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

    def delete(self, job_id: str) -> bool:
        """Delete a finished job; False where there is none."""
        with self._transaction() as db:
            gone = db.execute("DELETE FROM jobs WHERE id=? AND state IN ('completed','failed','cancelled')", (job_id,))
            return gone.rowcount == 1

    # -- webhooks of finished jobs -----------------------------------------------------------------------------------

    def next_webhook_at(self) -> float:
        """Unix time of the next one; infinite where there is none."""
        with self._lock:
            row = self._db.execute(f"SELECT min(webhook_at) AS next FROM jobs WHERE {_TO_TELL}").fetchone()
        return math.inf if row["next"] is None else float(row["next"])

    def take_webhook(self, now: float, lease_until: float) -> Job | None:
        """A job to tell of, which is taken by nobody else until `lease_until`; counts as one more try."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET webhook_at = ?, webhook_tries = webhook_tries + 1 WHERE webhook_at <= ? AND id = "
                f"(SELECT id FROM jobs WHERE {_TO_TELL} AND webhook_at <= ? ORDER BY webhook_at, seq LIMIT 1) "
                "RETURNING *",
                (lease_until, now, now),
            ).fetchone()
            return None if row is None else _job(row)

    def delay_webhook(self, job_id: str, until: float | None) -> None:
        """Tell it then; None: never again."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET webhook_at = ? WHERE id = ?", (until, job_id))

    # -- disk space of finished jobs ---------------------------------------------------------------------------------
    # None of these reads requests or results: at 50,000 records decoding them takes a second.

    def unmeasured(self, limit: int) -> list[str]:
        """Ids of finished jobs whose size is not known yet."""
        with self._lock:
            rows = self._db.execute(f"SELECT id FROM jobs WHERE {_WITH_FILES} AND bytes IS NULL LIMIT ?", (limit,))
            return [row[0] for row in rows]

    def measured(self, sizes: Iterable[tuple[str, int]]) -> None:
        with self._transaction() as db:
            db.executemany("UPDATE jobs SET bytes=? WHERE id=?", [(size, job_id) for job_id, size in sizes])

    def kept_bytes(self) -> int:
        """Total bytes of all finished jobs that are not expired."""
        with self._lock:
            return int(self._db.execute(f"SELECT coalesce(sum(bytes), 0) FROM jobs WHERE {_WITH_FILES}").fetchone()[0])

    def finished_before(self, moment: float, limit: int) -> list[str]:
        """Ids of jobs with files, first finished first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT id FROM jobs WHERE {_WITH_FILES} AND finished_at <= ? ORDER BY finished_at, seq LIMIT ?",
                (moment, limit),
            )
            return [row[0] for row in rows]

    def oldest_with_files(self, limit: int) -> list[tuple[str, int]]:
        """Ids and bytes of jobs with files, first finished first, without the one that finished last."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT id, coalesce(bytes, 0) FROM jobs WHERE {_WITH_FILES} AND seq != "
                f"(SELECT seq FROM jobs WHERE {_WITH_FILES} ORDER BY finished_at DESC, seq DESC LIMIT 1) "
                "ORDER BY finished_at, seq LIMIT ?",
                (limit,),
            )
            return [(row[0], row[1]) for row in rows]

    def expire(self, job_ids: Iterable[str]) -> None:
        """Mark the jobs as expired: their files are no longer served."""
        with self._transaction() as db:
            db.executemany("UPDATE jobs SET expired=1 WHERE id=?", [(job_id,) for job_id in job_ids])

    # -- SQL ---------------------------------------------------------------------------------------------------------

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
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:  # SQLite has rolled back by itself after some errors, not after all
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise _failure(error) from error
                raise


def _failure(error: sqlite3.OperationalError) -> StorageFailed:
    is_full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return storage_failed("The job records cannot be written", FULL if is_full else None)


def _job(row: sqlite3.Row) -> Job:
    fields = dict(row)
    fields["request"] = json.loads(fields["request"])
    fields["result"] = json.loads(fields["result"]) if fields["result"] else None
    for flag in ("waited_for", "cancel_requested", "expired"):
        fields[flag] = bool(fields[flag])
    return Job(**fields)
