"""The places that may be told: which URLs the operator allows, and which addresses are connected to.

A client chooses the URL, so it could make this server ask others that only this server can reach (server-side request
forgery). So a URL must name an allowed host and port; the name is resolved once; every address must be public, or be
allowed itself; and the connection goes to one of these addresses, so that a second answer of DNS changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from ltx_a2v.errors import InvalidInput, InvalidRequest, named

DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = r"(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?)"
_URL = re.compile(rf"(https?)://({_HOST})(?::([0-9]{{1,5}}))?(/[!-~]*|\?[!-~]*)?", re.ASCII | re.IGNORECASE)
"""No user, no fragment, no backslash: nothing that two readers could read differently."""
_PLACE = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?", re.ASCII | re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
_LEADING_INSIDE = [
    ipaddress.ip_network(text) for text in ("192.0.0.0/24", "168.63.129.16/32", "2001::/23", "2002::/16")
]
"""Ranges that some versions of Python call public: protocols' own, Azure's own service, Teredo, 6to4."""


class Refused(Exception):
    """The URL leads to an address that must not be connected to."""


@dataclass(frozen=True)
class Target:
    """A URL in parts; `host` is a name in lower case or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """As the header `Host` has it."""
        usual = self.port == DEFAULT_PORTS[self.scheme]
        return _bracketed(self.host) if usual else f"{_bracketed(self.host)}:{self.port}"

    def at(self, address: str) -> str:
        """The URL with the address in place of the name."""
        return f"{self.scheme}://{_bracketed(address)}:{self.port}{self.path}"


class Places:
    """What `--webhook-allow` lists: HOST with the usual ports, or HOST:PORT. Raises `InvalidInput`."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed: set[tuple[str, int | None]] = set()
        for text in allowed:
            found = _PLACE.fullmatch(text.strip())
            if found is None or not 0 < int(found[2] or 1) < 65536:
                example = "write HOST or HOST:PORT, as hooks.example.org:8443"
                raise InvalidInput(f"{named('webhook_allow')} {text!r} is no place; {example}.")
            self._allowed.add((_plain(found[1]), int(found[2]) if found[2] else None))

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def target(self, url: str) -> Target:
        """Raises `InvalidRequest` for what is no URL of an allowed place; messages leave the URL out, which may hold a
        secret."""
        if not self._allowed:
            raise _wrong("is not possible here: the server's operator has allowed no place with --webhook-allow")
        found = _URL.fullmatch(url)
        if found is None or not 0 < int(found[3] or 1) < 65536 or "\\" in url or "#" in url:
            raise _wrong("is no URL that is understood; write https://HOST/PATH without user, password and '#'")
        scheme, host = found[1].lower(), _plain(found[2])
        path = found[4] or "/"
        target = Target(scheme, host, int(found[3] or DEFAULT_PORTS[scheme]), path if path[0] == "/" else f"/{path}")
        if not self._allows(host, target):
            raise _wrong(f"leads to {target.authority}, which the server's operator has not allowed")
        return target

    async def addresses(self, target: Target) -> list[str]:
        """Where to connect to. Raises `Refused`, and `OSError` where the name is not found."""
        found = [_address(text) for text in await _resolve(target)]
        for address in found:
            local = target.host == "localhost" and address.is_loopback
            if not (local or is_public(address) or self._allows(str(address), target)):
                raise Refused(f"{target.host} leads to {address}, which is not public and is not allowed itself")
        return [str(address) for address in found]

    def _allows(self, host: str, target: Target) -> bool:
        usual = target.port == DEFAULT_PORTS[target.scheme]
        return (host, target.port) in self._allowed or (usual and (host, None) in self._allowed)


def is_public(address: Address) -> bool:
    """Whether the address is one of the internet's, and no way around to another one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _UNICAST:
            return False
    inside = any(address in network for network in _LEADING_INSIDE)
    return address.is_global and not (inside or address.is_multicast or address.is_reserved)


def _address(text: str) -> Address:
    """`::ffff:127.0.0.1` is 127.0.0.1."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


async def _resolve(target: Target) -> list[str]:
    if target.host == "localhost":  # always this machine, whatever DNS says
        return ["127.0.0.1", "::1"]
    found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def _plain(host: str) -> str:
    """In lower case; an address in its usual spelling, without brackets."""
    host = host.lower()
    try:
        return str(_address(host.strip("[]")))
    except ValueError:
        return host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wrong(reason: str) -> InvalidRequest:
    return InvalidRequest("webhook_url", reason=reason)
