"""The tables of the records, as SQL for both databases."""

from __future__ import annotations


def tables(serial: str, real: str) -> str:
    """`serial` is the type of a row's number, `real` that of Unix seconds."""
    return f"""
CREATE TABLE IF NOT EXISTS jobs (
    seq {serial},
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    waited_for INTEGER NOT NULL,
    created_at {real} NOT NULL,
    started_at {real},
    finished_at {real},
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
CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    job_id TEXT NOT NULL,
    created_at {real} NOT NULL
);
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at);
"""


ADDED_COLUMNS = {
    "owner": "TEXT",
    "bytes": "BIGINT",
    "error_param": "TEXT",
    "lease": "BIGINT NOT NULL DEFAULT 0",
    "lease_until": "DOUBLE PRECISION",
    "progress": "TEXT",
    "webhook": "TEXT",
    "webhook_at": "DOUBLE PRECISION",
    "webhook_tries": "BIGINT NOT NULL DEFAULT 0",
}
"""Columns that a database of an earlier version lacks."""

INDEXES = """
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, seq);
CREATE INDEX IF NOT EXISTS jobs_with_files ON jobs (finished_at, seq, bytes)
    WHERE expired = 0 AND finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_unmeasured ON jobs (seq)
    WHERE expired = 0 AND finished_at IS NOT NULL AND bytes IS NULL;
CREATE INDEX IF NOT EXISTS jobs_with_webhook ON jobs (webhook_at) WHERE webhook_at IS NOT NULL;
"""
