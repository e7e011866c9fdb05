"""The job store: one table in a database, durable before a request is answered.

    queued ──claim──> in_progress ──> completed | failed | cancelled
       ^                  │
       └────requeue───────┘   the worker or the server died (once), or the server was stopped

`attempts` counts claims, so that a job that kills its process twice is failed instead of retried forever.
`owner` names the worker that a job in progress belongs to.
`lease` counts claims too and never goes back. Where several servers share the database, a job belongs to its owner for
some seconds after each sign of life (`beat`); later any server may return it to the queue. Whoever gives the number of
an older lease changes nothing, so a server that comes back late cannot finish a job that another has.
Thread-safe. A write that the database refuses raises `StorageFailed` and changes nothing.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ltx_a2v.errors import QueueFull
from ltx_a2v.serving.jobs import idempotency
from ltx_a2v.serving.jobs.database import Database
from ltx_a2v.serving.jobs.sqlite import SqliteDatabase

State = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("completed", "failed", "cancelled")

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
    lease: int
    lease_until: float | None
    """Unix time by the database's clock."""
    progress: dict[str, Any] | None
    """Fields of a `Snapshot`, where another server runs the job."""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


def new_job_id() -> str:
    """Unguessable: 128 bits."""
    return f"video_{secrets.token_hex(16)}"


class JobStore:
    """The table of jobs, in a database or in a file of SQLite, which must be undamaged (`InvalidInput`)."""

    def __init__(self, where: Path | Database, lease_seconds: float = 15.0) -> None:
        self._database = SqliteDatabase(where) if isinstance(where, Path) else where
        self._lease_seconds = lease_seconds
        self._server = f"{socket.gethostname()}-{secrets.token_hex(4)}/" if self.is_shared else ""

    @property
    def is_shared(self) -> bool:
        """Whether other servers use these records too."""
        return self._database.shared

    @property
    def lease_seconds(self) -> float:
        """How long a job stays its owner's after a sign of life."""
        return self._lease_seconds

    def problem(self) -> str | None:
        """Why no record can be read or written now, as one sentence."""
        return self._database.problem()

    def close(self) -> None:
        self._database.close()

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
        with self._database.writing(alone=True) as db:
            if key is not None and (known := key.job_id(db)) is not None:
                return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (known,)).fetchone())
            waiting = db.execute("SELECT count(*) AS jobs FROM jobs WHERE state = 'queued'").fetchone()["jobs"]
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

    def count(self, *states: State) -> int:
        with self._database.reading() as db:
            marks = ",".join("?" * len(states))
            row = db.execute(f"SELECT count(*) AS jobs FROM jobs WHERE state IN ({marks})", states).fetchone()
            return int(row["jobs"])

    def position(self, job: Job) -> int | None:
        """1 for the job that runs next; None for a job that is not queued."""
        if job.state != "queued":
            return None
        with self._database.reading() as db:
            query = "SELECT count(*) AS jobs FROM jobs WHERE state = 'queued' AND seq <= ?"
            return int(db.execute(query, (job.seq,)).fetchone()["jobs"])

    def ids(self) -> set[str]:
        return set(self._ids("SELECT id FROM jobs"))

    def expired_ids(self) -> set[str]:
        return set(self._ids("SELECT id FROM jobs WHERE expired = 1"))

    # -- a job and its owner -----------------------------------------------------------------------------------------

    def claim(self, owner: str) -> Job | None:
        """Move the oldest queued job to in progress on `owner`, as one more attempt; None where none is queued."""
        return self._update(
            "SET state = 'in_progress', owner = ?, started_at = ?, attempts = attempts + 1, lease = lease + 1, "
            f"lease_until = {self._database.now} + ?, progress = NULL WHERE id = "
            f"(SELECT id FROM jobs WHERE state = 'queued' ORDER BY seq LIMIT 1 {self._database.skip_locked})",
            *(self._server + owner, time.time(), self._lease_seconds),
        )

    def claimed_by(self, owner: str) -> list[Job]:
        """Jobs in progress on an owner of this server."""
        return self._select("WHERE state = 'in_progress' AND owner = ?", self._server + owner)

    def beat(self, job: Job, progress: dict[str, Any]) -> Job | None:
        """Hold the lease for longer. The record now; None where the lease is lost: the job is not the caller's."""
        return self._update(
            f"SET lease_until = {self._database.now} + ?, progress = ? "
            "WHERE id = ? AND lease = ? AND state = 'in_progress'",
            *(self._lease_seconds, json.dumps(progress), job.id, job.lease),
        )

    def overdue(self) -> list[Job]:
        """Jobs in progress whose owner gave no sign of life for the time of a lease."""
        return self._select(f"WHERE state = 'in_progress' AND lease_until < {self._database.now} ORDER BY seq")

    def requeue(self, job_id: str, *, forgive: bool, lease: int | None = None) -> None:
        """Return the job to its place in the queue. `forgive`: this attempt is not counted."""
        with self._database.writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', started_at = NULL, progress = NULL, attempts = attempts - ? "
                f"WHERE id = ? AND state = 'in_progress' {_of(lease)}",
                (int(forgive), job_id),
            )

    def complete(self, job_id: str, result: dict[str, Any], lease: int | None = None) -> bool:
        """False where the job is no longer that of the lease."""
        return self._finish(job_id, "completed", lease, result=json.dumps(result))

    def fail(
        self, job_id: str, code: str, message: str, http_status: int, field: str = "", lease: int | None = None
    ) -> bool:
        columns: dict[str, str | int] = {
            "error_code": code,
            "error_message": message,
            "error_status": http_status,
            "error_param": field,
        }
        return self._finish(job_id, "failed", lease, **columns)

    def cancel(self, job_id: str, lease: int | None = None) -> bool:
        return self._finish(job_id, "cancelled", lease)

    def cancel_if_queued(self, job_id: str) -> bool:
        with self._database.writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state='cancelled', finished_at=? WHERE id=? AND state='queued'", (time.time(), job_id)
            )
            return changed.rowcount == 1

    def request_cancel(self, job_id: str) -> bool:
        """Ask the owner of a job in progress to stop it; False where it is not in progress."""
        with self._database.writing() as db:
            asked = db.execute("UPDATE jobs SET cancel_requested=1 WHERE id=? AND state='in_progress'", (job_id,))
            return asked.rowcount == 1

    def delete(self, job_id: str) -> bool:
        """Delete a finished job; False where there is none."""
        with self._database.writing() as db:
            gone = db.execute("DELETE FROM jobs WHERE id=? AND state IN ('completed','failed','cancelled')", (job_id,))
            return gone.rowcount == 1

    # -- webhooks of finished jobs -----------------------------------------------------------------------------------

    def next_webhook_at(self) -> float:
        """Unix time of the next one; infinite where there is none."""
        with self._database.reading() as db:
            row = db.execute(f"SELECT min(webhook_at) AS next FROM jobs WHERE {_TO_TELL}").fetchone()
        return math.inf if row["next"] is None else float(row["next"])

    def take_webhook(self, now: float, lease_until: float) -> Job | None:
        """A job to tell of, which is taken by nobody else until `lease_until`; counts as one more try."""
        return self._update(
            "SET webhook_at = ?, webhook_tries = webhook_tries + 1 WHERE webhook_at <= ? AND id = "
            f"(SELECT id FROM jobs WHERE {_TO_TELL} AND webhook_at <= ? ORDER BY webhook_at, seq LIMIT 1 "
            f"{self._database.skip_locked})",
            *(lease_until, now, now),
        )

    def delay_webhook(self, job_id: str, until: float | None) -> None:
        """Tell it then; None: never again."""
        with self._database.writing() as db:
            db.execute("UPDATE jobs SET webhook_at = ? WHERE id = ?", (until, job_id))

    # -- disk space of finished jobs ---------------------------------------------------------------------------------
    # None of these reads requests or results: at 50,000 records decoding them takes a second.

    def unmeasured(self, limit: int) -> list[str]:
        """Ids of finished jobs whose size is not known yet."""
        return self._ids(f"SELECT id FROM jobs WHERE {_WITH_FILES} AND bytes IS NULL LIMIT ?", limit)

    def measured(self, sizes: Iterable[tuple[str, int]]) -> None:
        with self._database.writing() as db:
            db.executemany("UPDATE jobs SET bytes=? WHERE id=?", [(size, job_id) for job_id, size in sizes])

    def kept_bytes(self) -> int:
        """Total bytes of all finished jobs that are not expired."""
        with self._database.reading() as db:
            query = f"SELECT coalesce(sum(bytes), 0) AS total FROM jobs WHERE {_WITH_FILES}"
            return int(db.execute(query).fetchone()["total"])

    def finished_before(self, moment: float, limit: int) -> list[str]:
        """Ids of jobs with files, first finished first."""
        query = f"SELECT id FROM jobs WHERE {_WITH_FILES} AND finished_at <= ? ORDER BY finished_at, seq LIMIT ?"
        return self._ids(query, moment, limit)

    def oldest_with_files(self, limit: int) -> list[tuple[str, int]]:
        """Ids and bytes of jobs with files, first finished first, without the one that finished last."""
        with self._database.reading() as db:
            rows = db.execute(
                f"SELECT id, coalesce(bytes, 0) AS bytes FROM jobs WHERE {_WITH_FILES} AND seq != "
                f"(SELECT seq FROM jobs WHERE {_WITH_FILES} ORDER BY finished_at DESC, seq DESC LIMIT 1) "
                "ORDER BY finished_at, seq LIMIT ?",
                (limit,),
            )
            return [(row["id"], row["bytes"]) for row in rows]

    def expire(self, job_ids: Iterable[str]) -> None:
        """Mark the jobs as expired: their files are no longer served."""
        with self._database.writing() as db:
            db.executemany("UPDATE jobs SET expired=1 WHERE id=?", [(job_id,) for job_id in job_ids])

    # -- SQL ---------------------------------------------------------------------------------------------------------

    def _finish(self, job_id: str, state: State, lease: int | None = None, **columns: str | int) -> bool:
        """Whether the job has now ended so. A second call with the same lease changes nothing and is true: the reply
        to the first may have been lost."""
        names = "".join(f", {name}=?" for name in columns)
        with self._database.writing() as db:
            changed = db.execute(
                f"UPDATE jobs SET state=?, finished_at=?{names} WHERE id=? AND state IN ('queued','in_progress') "
                + _of(lease),
                (state, time.time(), *columns.values(), job_id),
            )
            if changed.rowcount == 1:
                return True
            ended = db.execute(f"SELECT id FROM jobs WHERE id = ? AND state = ? {_of(lease, '')}", (job_id, state))
            return ended.fetchone() is not None

    def _update(self, change: str, *values: object) -> Job | None:
        """The job that the change applies to, as it is then; at most one."""
        with self._database.writing() as db:
            row = db.execute(f"UPDATE jobs {change} RETURNING *", values).fetchone()
            return None if row is None else _job(row)

    def _select(self, clause: str, *values: object) -> list[Job]:
        with self._database.reading() as db:
            return [_job(row) for row in db.execute(f"SELECT * FROM jobs {clause}", values)]

    def _ids(self, query: str, *values: object) -> list[str]:
        with self._database.reading() as db:
            return [row["id"] for row in db.execute(query, values)]


def _of(lease: int | None, running: str = "AND state = 'in_progress'") -> str:
    """SQL: the job is in progress with that lease; nothing where none is given."""
    return "" if lease is None else f"AND lease = {lease:d} {running}"


_COLUMNS = [field.name for field in fields(Job)]


def _job(row: Any) -> Job:
    """Columns of a later version are left out: servers of two versions may share the records for a while."""
    values = {name: row[name] for name in _COLUMNS}
    values["request"] = json.loads(values["request"])
    for name in ("result", "progress"):
        values[name] = json.loads(values[name]) if values[name] else None
    for flag in ("waited_for", "cancel_requested", "expired"):
        values[flag] = bool(values[flag])
    return Job(**values)
