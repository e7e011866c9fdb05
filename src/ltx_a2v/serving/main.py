"""`ltx-a2v serve`: start, serve until a signal, stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from ltx_a2v.errors import InvalidInput
from ltx_a2v.serving import logs
from ltx_a2v.serving.http.app import build_app
from ltx_a2v.serving.http.security import check_bind
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.records import JobStore
from ltx_a2v.serving.jobs.retention import sweep_for_ever
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.scheduler import Scheduler
from ltx_a2v.settings.server import ServerSettings

DRAIN_SECONDS = 3


def serve(settings: ServerSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `InvalidInput` where it cannot start."""
    check_bind(settings)
    settings.check()
    logs.configure(settings.log_format)
    folders = Folders(settings.output_dir.resolve(), settings.state.resolve())
    folders.create()
    with _only_server(folders.state), _listening(settings) as listener:
        asyncio.run(_serve(settings, folders, listener))
    return 0


async def _serve(settings: ServerSettings, folders: Folders, listener: socket.socket) -> None:
    store, metrics = JobStore(folders.state / "jobs.sqlite3"), Metrics()
    scheduler = Scheduler(settings, store, folders, metrics)
    service = Service(settings, store, folders, scheduler, metrics)
    server = _server(build_app(service), scheduler)
    await scheduler.start()
    sweeper = asyncio.create_task(sweep_for_ever(store, folders, service.keep))
    host, port = listener.getsockname()[:2]
    say("server", f"A2V listening on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        await server.serve(sockets=[listener])
    finally:
        sweeper.cancel()
        await scheduler.stop()
        store.close()
        say("server", "stopped")


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again after it has stopped, before the worker has."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: object, scheduler: Scheduler) -> uvicorn.Server:
    server = _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )

    def stop() -> None:
        server.force_exit = server.should_exit  # asked twice
        server.should_exit = True
        scheduler.stopping = True
        scheduler.changes.publish_all()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    return server


@contextlib.contextmanager
def _only_server(state: Path) -> Iterator[None]:
    """Two servers on one set of jobs would run them twice."""
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInput(
                f"Another server works in {state}: give this one its own --state-dir and --output-dir."
            ) from None
        yield


@contextlib.contextmanager
def _listening(settings: ServerSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise InvalidInput(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from None
        listener.listen(2048)
        yield listener
