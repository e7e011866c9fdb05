"""One request to one place: bounded in time and size, to a checked address, following nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from ltx_a2v.serving.webhooks.places import Places, Target

SEND_SECONDS = 15.0
"""For the whole of it: the name, the connection, the request and the reply."""
CONNECT_SECONDS = 5.0
MOST_REPLY = 4096
"""Bytes of a reply that are read; what it says is of no interest."""


async def send(places: Places, target: Target, headers: Mapping[str, str], body: bytes) -> int:
    """The status of the reply.

    Raises `Refused`, `TimeoutError`, `OSError` where the name is not found, and `httpx.HTTPError`.
    """
    async with asyncio.timeout(SEND_SECONDS):
        *others, last = await places.addresses(target)
        for address in others:
            try:
                return await _send_to(address, target, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # of two families, one may not work here
                continue
        return await _send_to(last, target, headers, body)


async def _send_to(address: str, target: Target, headers: Mapping[str, str], body: bytes) -> int:
    """The certificate must be the name's. A proxy would resolve the name again, so none is used."""
    timeout = httpx.Timeout(SEND_SECONDS, connect=CONNECT_SECONDS)
    verify = httpx.create_ssl_context(trust_env=True) if target.scheme == "https" else False
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout, verify=verify) as client:
        request = client.build_request(
            "POST",
            target.at(address),
            headers={**headers, "Host": target.authority},
            content=body,
            extensions={"sni_hostname": target.host},
        )
        reply = await client.send(request, stream=True)
        try:
            await _read_some(reply)
        finally:
            await reply.aclose()
        return reply.status_code


async def _read_some(reply: httpx.Response) -> None:
    """Before closing: a server may otherwise see a broken connection."""
    read = 0
    async for chunk in reply.aiter_raw():
        read += len(chunk)
        if read > MOST_REPLY:
            return
