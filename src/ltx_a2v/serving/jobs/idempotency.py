"""Keys that mark a repeated request of a client (`Idempotency-Key`); they are kept for a day."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ltx_a2v.errors import Conflict
from ltx_a2v.serving.jobs.database import Statements

KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Key:
    """A client's key, and the digest of its request. `db` is a transaction of the caller."""

    key: str
    digest: str

    def job_id(self, db: Statements) -> str | None:
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

    def remember(self, db: Statements, job_id: str) -> None:
        now = time.time()
        db.execute("DELETE FROM keys WHERE created_at <= ?", (now - KEPT_SECONDS,))
        db.execute(
            "INSERT INTO keys (key, digest, job_id, created_at) VALUES (?,?,?,?) ON CONFLICT (key) DO UPDATE "
            "SET digest = excluded.digest, job_id = excluded.job_id, created_at = excluded.created_at",
            (self.key, self.digest, job_id, now),
        )
