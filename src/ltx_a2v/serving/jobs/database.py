"""What the records need of a database: transactions of SQL that SQLite and PostgreSQL both understand.

Values are given for `?`. Rows are read by the names of their columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


class Statements(Protocol):
    """Runs statements within one transaction."""

    def execute(self, sql: str, values: Sequence[object] = (), /) -> Rows: ...
    def executemany(self, sql: str, values: Iterable[Sequence[object]], /) -> object: ...


class Database(Protocol):
    """One of the two. Thread-safe. What it cannot do now raises `StorageFailed` and changes nothing."""

    shared: bool
    """Whether several servers use it: a running job then is leased to one of them."""
    now: str
    """SQL for the database's own time in Unix seconds, so that the clocks of servers need not agree."""
    skip_locked: str
    """SQL that takes a row which no other transaction is taking."""

    def reading(self) -> AbstractContextManager[Statements]: ...
    def writing(self, *, alone: bool = False) -> AbstractContextManager[Statements]:
        """`alone`: no other transaction that asks for this runs at the same time."""

    def problem(self) -> str | None:
        """Why it cannot be used now, as one sentence; None where it answers."""

    def close(self) -> None: ...
