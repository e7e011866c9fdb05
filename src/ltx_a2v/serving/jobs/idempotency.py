"""Keys that mark a repeated request of a client (`Idempotency-Key`); they are kept for a day."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from ltx_a2v.errors import Conflict

KEPT_SECONDS = 24 * 3600.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    job_id TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at);
"""


@dataclass(frozen=True)
class Key:
    """A client's key, and the digest of its request. `db` is in a transaction of the caller."""

    key: str
    digest: str

    def job_id(self, db: sqlite3.Connection) -> str | None:
        """The job that was made for the key; None where there is none, or it was deleted or cancelled.

        Raises `Conflict` where the key came with another body.
        """
        row = db.execute(
            "SELECT keys.digest, keys.job_id FROM keys JOIN jobs ON jobs.id = keys.job_id "
            "WHERE keys.key = ? AND keys.created_at > ? AND jobs.state != 'cancelled' AND jobs.cancel_requested = 0",
            (self.key, time.time() - KEPT_SECONDS),
        ).fetchone()
        if row is None:
            return None
        if row["digest"] != self.digest:
            raise Conflict("This Idempotency-Key was sent with another body; take a new key for a new video.")
        return str(row["job_id"])

    def remember(self, db: sqlite3.Connection, job_id: str) -> None:
        now = time.time()
        db.execute("DELETE FROM keys WHERE created_at <= ?", (now - KEPT_SECONDS,))
        db.execute("INSERT OR REPLACE INTO keys VALUES (?,?,?,?)", (self.key, self.digest, job_id, now))
