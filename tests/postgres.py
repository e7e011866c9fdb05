"""A PostgreSQL server for tests: Debian's package, a free port, a temporary folder.

It refuses to run as root, so root starts it as the user `postgres`, or `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MISSING = "PostgreSQL is not installed: apt-get install postgresql"


def binaries() -> Path | None:
    """The folder of the newest `initdb`; None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """A running server. `url` names one of its databases; `stop` and `start` are for tests of a database that is
    away."""

    def __init__(self, folder: Path, programs: Path, durable: bool = False) -> None:
        self._folder = folder
        self._fsync = "on" if durable else "off"
        self._programs = programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(folder), "-U", "ltx", "--auth=trust", "--no-sync", "-E", "UTF8", "--no-locale")
        self.start()

    def start(self) -> None:
        options = {
            **{"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._folder},
            **{"fsync": self._fsync, "shared_buffers": "16MB", "max_connections": 60},
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._folder), *flags]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_as_another_user())
        self._wait(lambda: self._probe("postgres"))

    def stop(self, number: int = signal.SIGINT) -> None:
        """At once: open connections are closed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(20)

    def new_database(self, name: str) -> str:
        """Its URL."""
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql://ltx@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str):
        import psycopg

        return psycopg.connect(self.url(name), autocommit=True, connect_timeout=5)

    def _probe(self, name: str) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError), self.connect(name):
            return True
        return False

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert self.process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.05)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, preexec_fn=_as_another_user(), cwd="/", timeout=60)


@contextlib.contextmanager
def running_postgres(durable: bool = False) -> Iterator[Postgres | None]:
    """None where it is not installed; `durable` to measure it.

    Not below pytest's folders, which only their owner may enter.
    """
    programs = binaries()
    if programs is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ltx-a2v-postgres-"))
    try:
        user = _user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(folder, programs, durable)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    """Whom root becomes; None for others, who stay who they are."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _as_another_user() -> Callable[[], None] | None:
    user = _user()
    if user is None:
        return None

    def become() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return become
