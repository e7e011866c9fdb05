"""The application for Ray Serve: `build` makes it of `parts`, for `ltx-a2v cluster run`, `serve run` and a RayService.

serve run ltx_a2v.serving.cluster.app:build storage=s3://bucket/prefix max_replicas=8
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ltx_a2v.errors import InvalidInput, MissingExtra
from ltx_a2v.serving.cluster.parts import Caller, Front, Replica
from ltx_a2v.settings.cluster import ClusterSettings
from ltx_a2v.settings.units import parse_duration

NAME = "ltx-a2v"
FRONT_REQUESTS = 1000
"""Open requests of one front; most are event streams."""
FRONT_DRAIN_SECONDS = 10.0
HEALTH_SECONDS = 2.0
"""Between two looks of Serve at each process: so long may a dead one stay unnoticed."""


class ServedFront(Front):
    """Starts with Serve's first word to the application, on the loop that requests come on."""

    def __init__(self, given: dict[str, Any], caller: object = None) -> None:
        super().__init__(given, caller)
        self._app: ASGIApp | None = None
        self._starting = asyncio.Lock()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _Started(self)

    async def started(self) -> ASGIApp:
        async with self._starting:
            if self._app is None:
                self._app = await self.start()
        return self._app

    async def __del__(self) -> None:
        if self._app is not None:
            await self.stop()


class _Started:
    """The application of a front, which is started first."""

    def __init__(self, front: ServedFront) -> None:
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = await self._front.started()
        await app(scope, receive, send)


class ServedReplica(Replica):
    """Stops when Serve removes it."""

    async def work(self) -> AsyncIterator[str | None]:
        async for job in super().work():
            yield job

    async def __del__(self) -> None:
        await self.stop()


class ServedCaller(Caller):
    """Starts with Serve's first health check."""

    def __init__(self, given: dict[str, Any], replicas: Any) -> None:
        super().__init__(given, replicas.options(stream=True).work.remote)

    async def check_health(self) -> None:
        self.start()

    async def __del__(self) -> None:
        self.stop()


def build(arguments: dict[str, Any]) -> Any:
    """An application of Ray Serve. `arguments` are settings by name; others come from the environment, secrets only
    from there: LTX_A2V_DATABASE, LTX_A2V_API_KEY and the object store's, on each machine of the cluster."""
    settings = ClusterSettings(**arguments)
    settings.check()
    if settings.api_key is None and not settings.insecure:  # Serve decides where it listens, often for everyone
        raise InvalidInput("Others may reach this application: set LTX_A2V_API_KEY on each machine, or insecure=true.")
    return application(settings)


def application(settings: ClusterSettings) -> Any:
    """Raises `MissingExtra` without Ray."""
    try:
        from ray import serve
    except ImportError:
        raise MissingExtra("A cluster", "ray") from None
    given = settings.without_secrets()
    light = {"num_cpus": 0}
    watched = {"health_check_period_s": HEALTH_SECONDS, "health_check_timeout_s": 30.0}
    front = serve.deployment(
        serve.ingress()(ServedFront),
        name="Front",
        num_replicas=settings.fronts,
        max_ongoing_requests=FRONT_REQUESTS,
        graceful_shutdown_timeout_s=FRONT_DRAIN_SECONDS,
        ray_actor_options=light,
        **watched,
    )
    caller = serve.deployment(ServedCaller, name="Caller", num_replicas=1, ray_actor_options=light, **watched)
    replica = serve.deployment(
        ServedReplica,
        name="Replica",
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=parse_duration(settings.drain),
        ray_actor_options=_resources(settings),
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 0.5,
            "metrics_interval_s": 0.5,
            "look_back_period_s": 1.0,
            "downscale_delay_s": _seconds(settings),
            "downscale_to_zero_delay_s": _seconds(settings),
        },
        **watched,
    )
    return front.bind(given, caller.bind(given, replica.bind(given)))


def _resources(settings: ClusterSettings) -> dict[str, Any]:
    custom = {settings.replica_resource: 1} if settings.replica_resource else {}
    return {"num_cpus": 0, "num_gpus": settings.gpus_per_replica, "resources": custom}


def _seconds(settings: ClusterSettings) -> float:
    """How long an idle replica stays; without end only where it is not to be removed anyway."""
    return min(settings.keep_alive_seconds, 10 * 365 * 86400.0)
