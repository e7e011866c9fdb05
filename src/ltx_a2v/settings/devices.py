"""The devices of a server's workers: the groups of `--devices`, or one group on `--device`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ltx_a2v.errors import InvalidRequest, named
from ltx_a2v.hardware.driver import gpu_count

ALL = "all"
ONE = re.compile(r"(cuda|cpu)(?::(\d+))?")


@dataclass(frozen=True)
class WorkerDevices:
    """What one worker computes on."""

    members: tuple[str, ...]
    """As cuda:0; the first one is the worker's own, the others are those of its helpers."""
    setting: str | None
    """The `device` that the worker's pipeline is opened with; None lets it choose."""

    @property
    def name(self) -> str:
        """Names the worker too, as each device has one: in records, replies and metrics."""
        return "+".join(self.members)


def on_one(device: str | None, count: int) -> tuple[WorkerDevices]:
    """One worker on `device` and the GPUs that follow it, `count` in all."""
    kind, _, number = (device or ("cuda" if gpu_count() else "cpu")).partition(":")
    first = int(number or 0)
    members = tuple(f"cuda:{first + i}" for i in range(count)) if kind == "cuda" else ("cpu",)
    return (WorkerDevices(members, device),)


def groups_of(given: str, count: int) -> tuple[WorkerDevices, ...]:
    """A worker for each `count` devices of a list as `cuda:0,cuda:1`, or of `all` GPUs.

    `cpu:0,cpu:1` are two processes on the one CPU, to try it. Raises `InvalidRequest`.
    """
    members = _all_gpus(given) if given.strip() == ALL else [_one(given, name.strip()) for name in given.split(",")]
    twice = next((name for name in members if members.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest("devices", given, f"names {twice} twice; name each device once")
    if len({name.partition(":")[0] for name in members}) > 1:
        raise InvalidRequest("devices", given, "are GPUs or the CPU, not both; give one kind")
    _check_they_exist(given, members)
    if len(members) % count:
        reason = f"is {len(members)} devices, no multiple of {named('gpus_per_clip')} {count}; add or leave out some"
        raise InvalidRequest("devices", given, reason)
    return tuple(_group(tuple(members[i : i + count])) for i in range(0, len(members), count))


def _all_gpus(given: str) -> list[str]:
    count = gpu_count()
    if not count:
        raise InvalidRequest("devices", given, f"finds no GPU on this machine; use {named('device')} cpu")
    return [f"cuda:{index}" for index in range(count)]


def _one(given: str, name: str) -> str:
    match = ONE.fullmatch(name)
    if match is None:
        raise InvalidRequest("devices", given, f"holds {name!r}, which is no device; write cuda:0,cuda:1 or {ALL}")
    return f"{match[1]}:{int(match[2] or 0)}"


def _check_they_exist(given: str, members: list[str]) -> None:
    found = gpu_count()
    missing = next((name for name in members if name.startswith("cuda") and int(name[5:]) >= found), None)
    if missing is not None:
        there = {0: "no GPU", 1: "one GPU, cuda:0"}.get(found, f"{found} GPUs, cuda:0 to cuda:{found - 1}")
        raise InvalidRequest("devices", given, f"holds {missing}, but this machine has {there}; name those it has")


def _group(members: tuple[str, ...]) -> WorkerDevices:
    return WorkerDevices(members, "cpu" if members[0].startswith("cpu") else ",".join(members))
