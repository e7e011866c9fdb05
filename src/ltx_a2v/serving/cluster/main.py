"""`ltx-a2v cluster run`: start or join Ray, deploy the application, and serve until a signal."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from ltx_a2v.errors import InvalidInput, MissingExtra, named
from ltx_a2v.serving import logs
from ltx_a2v.serving.cluster.app import NAME, application
from ltx_a2v.serving.http.security import check_bind
from ltx_a2v.serving.jobs.bucket import Bucket
from ltx_a2v.serving.logs import say
from ltx_a2v.settings.cluster import ClusterSettings


def run(settings: ClusterSettings) -> int:
    """Returns the exit code. Raises `InvalidInput` where it cannot start.

    On a cluster that is there already, the application stays when this returns.
    """
    ray, serve = _libraries()
    check_bind(settings)
    settings.check()
    if settings.storage is not None:
        Bucket(settings.storage)  # raises for a mistake, before Ray starts
    logs.configure(settings.log_format)
    joins = settings.ray_address is not None
    _connect(ray, settings)
    stopped = _signalled()
    try:
        _check_resources(ray, settings)
        serve.start(http_options={"host": settings.host, "port": settings.port, "location": "EveryNode"})
        serve.run(application(settings), name=NAME, route_prefix="/", blocking=False)
        say("server", f"A2V listening on http://{settings.host}:{settings.port}")
        if not joins:
            stopped.wait()
            say("server", f"stopping: running jobs have {settings.drain} to end; a second signal does not wait")
            serve.shutdown()
    except KeyboardInterrupt:
        say("server", "did not wait; running jobs go back to the queue when their leases end", level=30)
    finally:
        ray.shutdown()
    say("server", "deployed" if joins else "stopped")
    return 0


def _signalled() -> threading.Event:
    """Set by the first signal; the second one raises `KeyboardInterrupt`. After Ray, which takes signals for itself."""
    stopped = threading.Event()

    def note(*_: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, note)
    return stopped


def _libraries() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError:
        raise MissingExtra("ltx-a2v cluster", "ray") from None
    return ray, serve


def _connect(ray: Any, settings: ClusterSettings) -> None:
    if settings.ray_address is not None:
        try:
            ray.init(address=settings.ray_address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise InvalidInput(
                f"The Ray cluster at {named('ray_address')} {settings.ray_address} cannot be joined: "
                f"{(str(error).splitlines() or [''])[0].rstrip('.')}."
            ) from None
        return
    os.environ.update(settings.secret_environment())  # what Ray starts here inherits them
    custom = {settings.replica_resource: settings.max_replicas} if settings.replica_resource else None
    ray.init("local", include_dashboard=False, resources=custom, log_to_driver=False, logging_level="WARNING")


def _check_resources(ray: Any, settings: ClusterSettings) -> None:
    """A cluster that scales has no GPU until a replica asks for one, so there it is a warning."""
    present = ray.cluster_resources()
    if settings.gpus_per_replica <= present.get("GPU", 0):
        return
    missing = (
        f"The cluster has {present.get('GPU', 0):g} GPUs and a replica needs {settings.gpus_per_replica:g}: add "
        f"machines with GPUs, or give {named('gpus_per_replica')} 0 and {named('replica_resource')}."
    )
    if settings.ray_address is None:
        raise InvalidInput(missing)
    say("server", missing, level=30)
