"""`ltx-a2v serve`: start, serve until a signal, stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from ltx_a2v.errors import InvalidInput
from ltx_a2v.serving import logs
from ltx_a2v.serving.http.app import build_app
from ltx_a2v.serving.http.connections import BoundedHttp, Bounds
from ltx_a2v.serving.http.security import check_bind
from ltx_a2v.serving.http.service import Service
from ltx_a2v.serving.jobs.folders import Folders
from ltx_a2v.serving.jobs.opening import folders_of, open_records
from ltx_a2v.serving.jobs.retention import Sweeper
from ltx_a2v.serving.logs import say
from ltx_a2v.serving.metrics import Metrics
from ltx_a2v.serving.work.scheduler import Scheduler
from ltx_a2v.serving.work.waiting import end
from ltx_a2v.settings.server import ServerSettings

DRAIN_SECONDS = 3


def serve(settings: ServerSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises `InvalidInput` where it cannot start."""
    check_bind(settings)
    settings.check()
    logs.configure(settings.log_format)
    os.umask(0o077)  # other users of this machine must not read prompts, uploads and videos
    bounds = Bounds.of(settings)
    folders = _created_folders(settings)
    shared = settings.database is not None and settings.storage is None  # with a bucket, each has its own folders
    with (
        only_server(folders.state / "lock", shared),
        only_server(folders.outputs / ".lock", shared),
        _listening(settings, bounds) as listener,
    ):
        asyncio.run(_serve(settings, folders, listener, bounds))
    return 0


async def _serve(settings: ServerSettings, folders: Folders, listener: socket.socket, bounds: Bounds) -> None:
    store, metrics = open_records(settings), Metrics()
    scheduler = Scheduler(settings, store, folders, metrics)
    service = Service(settings, store, folders, scheduler, metrics)
    courier = service.courier()
    server = _server(build_app(service), scheduler, bounds)
    await scheduler.start()
    sweeper = Sweeper(store, folders, service.keep)
    sweeping = asyncio.create_task(sweeper.run())
    telling = asyncio.create_task(courier.run()) if courier is not None else None
    host, port = listener.getsockname()[:2]
    say("server", f"A2V listening on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        await server.serve(sockets=[listener])
    finally:
        sweeper.stop()
        sweeping.cancel()
        await scheduler.stop()
        await end(telling)
        await service.checker.stop()
        store.close()
        say("server", "stopped")


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again when it has stopped, before the worker has."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, scheduler: Scheduler, bounds: Bounds) -> uvicorn.Server:
    server = _Server(
        uvicorn.Config(
            app,
            http=cast(Any, partial(BoundedHttp, bounds)),  # callable like the class that uvicorn expects
            ws="none",
            backlog=bounds.backlog,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )

    def stop() -> None:
        server.force_exit = server.should_exit  # a second signal
        server.should_exit = True
        scheduler.stopping = True
        scheduler.changes.publish_all()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    return server


def _created_folders(settings: ServerSettings) -> Folders:
    folders = folders_of(settings)
    try:
        folders.create()
    except OSError as error:
        raise InvalidInput(
            f"The folder {error.filename} cannot be made ({error.strerror}): give another --output-dir or --state-dir."
        ) from None
    return folders


@contextlib.contextmanager
def only_server(lock: Path, shared: bool) -> Iterator[None]:
    """Two servers on one set of jobs would run them twice; two on one output folder would remove each other's files.

    `shared`: servers with one database may share them, as its leases keep them apart.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o600)  # not for writing: the disk may be remounted
    except OSError as error:
        raise InvalidInput(
            f"The folder {lock.parent} cannot be written to ({error.strerror}): give another --output-dir or "
            "--state-dir."
        ) from None
    try:
        _lock(descriptor, lock.parent, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        raise InvalidInput(
            f"Another server works in {folder}: give this one its own --state-dir and --output-dir."
        ) from None


@contextlib.contextmanager
def _listening(settings: ServerSettings, bounds: Bounds) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise InvalidInput(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from None
        listener.listen(bounds.backlog)
        yield listener
