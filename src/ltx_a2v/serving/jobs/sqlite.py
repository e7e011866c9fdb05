"""The records of one server: a file of SQLite, one connection behind one lock."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltx_a2v.errors import InvalidInput, StorageFailed
from ltx_a2v.serving.jobs.schema import ADDED_COLUMNS, INDEXES, tables
from ltx_a2v.serving.jobs.storage import FULL, storage_failed


class SqliteDatabase:
    """Raises `InvalidInput` where the file at `path` is damaged or no such database."""

    shared = False
    now = "((julianday('now') - 2440587.5) * 86400.0)"
    skip_locked = ""

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
        self._db.executescript(tables(serial="INTEGER PRIMARY KEY AUTOINCREMENT", real="REAL"))
        present = {row["name"] for row in self._db.execute("PRAGMA table_info(jobs)")}
        for name, kind in ADDED_COLUMNS.items():
            if name not in present:
                self._db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
        self._db.executescript(INDEXES)

    def _damaged(self, finding: str) -> InvalidInput:
        words = " ".join(finding.split())
        return InvalidInput(
            f"The job records in {self._path} are damaged ({words}): move that file, its -wal and -shm away to start "
            "with no jobs, or put a backup in its place; finished videos stay in --output-dir."
        )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._db

    @contextmanager
    def writing(self, *, alone: bool = True) -> Iterator[sqlite3.Connection]:
        del alone  # every writer is
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

    def problem(self) -> None:
        """A disk that refuses is found by the probe of the folders."""

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _failure(error: sqlite3.OperationalError) -> StorageFailed:
    is_full = error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return storage_failed("The job records cannot be written", FULL if is_full else None)
