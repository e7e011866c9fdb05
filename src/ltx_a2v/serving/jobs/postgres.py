"""The records of several servers: PostgreSQL, through psycopg 3 and its pool.

The database may be away, also when the server starts. Each use then raises `StorageFailed` after a few seconds; the
tables are made by the first use that reaches it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from ltx_a2v.errors import InvalidInput, MissingExtra, StorageFailed, named
from ltx_a2v.serving.jobs.schema import ADDED_COLUMNS, INDEXES, tables
from ltx_a2v.serving.jobs.storage import FULL, UNREACHABLE, storage_failed

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

SCHEMES = ("postgresql://", "postgres://")
CONNECTIONS = 4
"""Of one server. Its statements take about a millisecond."""
WAIT_SECONDS = 2.0
"""For the database to answer."""
RETRY_SECONDS = 1.0
MAKE_TABLES, ADD_JOB = 6_017_001, 6_017_002
"""Numbers of the advisory locks."""


class PostgresDatabase:
    """`url` is postgresql://user:password@host:port/database. Raises `InvalidInput` where it is none."""

    shared = True
    now = "extract(epoch FROM clock_timestamp())::float8"
    skip_locked = "FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str) -> None:
        try:
            from psycopg import ProgrammingError
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise MissingExtra(f"{named('database')} with PostgreSQL", "postgres") from None
        try:
            told = conninfo_to_dict(url) if url.startswith(SCHEMES) else {}
        except ProgrammingError:
            told = {}
        if not told:  # its text stays unsaid: there may be a password in it
            raise InvalidInput(f"{named('database')} must be postgresql://USER:PASSWORD@HOST:PORT/NAME.")
        self._place = f"{told.get('host', 'localhost')}:{told.get('port', 5432)}"
        self._has_tables = False
        self._away_since = float("-inf")
        self._cause: Exception | None = None
        self._opening = threading.Lock()
        self._url = url
        self._pool = _pool(url)

    @contextmanager
    def reading(self) -> Iterator[_Statements]:
        with self.writing() as statements:
            yield statements

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[_Statements]:
        import psycopg
        from psycopg_pool import PoolClosed, PoolTimeout

        self._raise_if_away()
        try:
            self._make_tables_once()
            with self._pool.connection() as connection:
                if alone:
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADD_JOB,))
                yield _Statements(connection)
        except psycopg.errors.DiskFull as error:
            raise storage_failed("The job records cannot be written", FULL) from error
        except (psycopg.Error, PoolTimeout, PoolClosed) as error:
            self._away_since = time.monotonic()
            self._cause = error
            raise self._unreachable() from error

    def _raise_if_away(self) -> None:
        """At once for a second after a failure, so that not every request waits for a database that is away."""
        if time.monotonic() - self._away_since < RETRY_SECONDS:
            raise self._unreachable() from self._cause

    def _make_tables_once(self) -> None:
        if self._has_tables:
            return
        with self._opening:
            self._raise_if_away()  # whoever had the lock before has just found out
            if self._has_tables:
                return
            with self._pool.connection() as connection:
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MAKE_TABLES,))  # servers start together
                serial = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
                connection.execute(_literal(tables(serial, real="DOUBLE PRECISION")))
                for name, kind in ADDED_COLUMNS.items():
                    connection.execute(_literal(f"ALTER TABLE jobs ADD COLUMN IF NOT EXISTS {name} {kind}"))
                connection.execute(_literal(INDEXES))
            self._has_tables = True

    def _unreachable(self) -> StorageFailed:
        error = StorageFailed(
            f"The database at {self._place} cannot be used now: start it, or correct --database; jobs wait."
        )
        error.code = UNREACHABLE
        return error

    def problem(self) -> str | None:
        try:
            with self.reading() as statements:
                statements.execute("SELECT 1")
        except StorageFailed as error:
            return f"{error} ({self._reason()})"
        return None

    def _reason(self) -> str:
        """Why it cannot be used, which the pool does not tell."""
        import psycopg

        try:
            psycopg.connect(self._url, connect_timeout=round(WAIT_SECONDS)).close()
        except psycopg.Error as error:
            return _first_line(error)
        return "it answers again"

    def close(self) -> None:
        self._pool.close()


class _Statements:
    """Statements within a transaction of psycopg, which writes `%s` for a value."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] = ()) -> psycopg.Cursor[dict[str, Any]]:
        return self._connection.execute(_with_percents(sql), [_number(value) for value in values])

    def executemany(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_with_percents(sql), values)


def _pool(url: str) -> ConnectionPool[psycopg.Connection[dict[str, Any]]]:
    """Without connections at first. One that the database has closed is found before it is used."""
    from psycopg.rows import dict_row
    from psycopg_pool import ConnectionPool

    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # each use says so by its error
    return ConnectionPool(
        url,
        kwargs={
            "row_factory": dict_row,
            "connect_timeout": round(WAIT_SECONDS),
            "application_name": "ltx-a2v",
            "prepare_threshold": None,  # so that a pooler may stand in between
        },
        min_size=0,
        max_size=CONNECTIONS,
        timeout=WAIT_SECONDS,
        reconnect_timeout=1.0,
        check=ConnectionPool.check_connection,
        open=True,
    )


def _with_percents(sql: str) -> LiteralString:
    return _literal(sql.replace("?", "%s"))


def _literal(sql: str) -> LiteralString:
    return sql  # of this room's own words, never of a request


def _number(value: object) -> object:
    """Flags are numbers in the tables."""
    return int(value) if isinstance(value, bool) else value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].strip()
