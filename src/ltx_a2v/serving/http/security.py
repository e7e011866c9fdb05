"""Access control: the API key, the addressed host, and the origin of a browser's request."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
import socket

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltx_a2v.errors import A2VError, Forbidden, InvalidInput, Unauthorized
from ltx_a2v.serving.http.replies import error_reply
from ltx_a2v.settings.server import ServerSettings

LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""An IPv6 address in brackets, or a name (with or without the root's dot) or IPv4 address, and a port."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def check_bind(settings: ServerSettings) -> None:
    """Raises `InvalidInput` for an address that others can reach where no API key is set."""
    if settings.api_key is not None and not settings.api_key.get_secret_value():
        raise InvalidInput("--api-key is empty; give a key, or leave it out.")
    if settings.api_key is None and not settings.insecure and not is_loopback(settings.host):
        raise InvalidInput(
            f"--host {settings.host} can be reached by others and no API key is set: set LTX_A2V_API_KEY, "
            "or give --insecure if something else keeps strangers out."
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Gate:
    """ASGI middleware: refuses before any route runs or a byte of a body is read."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._hosts = ServedHosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            self._check(scope)
        except A2VError as error:
            return await error_reply(error, scope["path"])(scope, receive, _with_headers(send))
        return await self._app(scope, receive, _with_headers(send))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._hosts.check(headers.getlist("host"))
        _check_origin(headers, scope["method"])
        if self._key is not None and scope["path"] != "/health":
            _check_key(headers, self._key)


class ServedHosts:
    """The values of `Host` that are answered.

    A foreign page can point its own name at this machine (DNS rebinding) and would then share our origin. So a name
    must be ours or allowed; an address needs no check where others may reach us, as no page can claim it. Where a key
    is set and others reach us, any name will do: browsers do not send the key to a foreign name.
    """

    def __init__(self, settings: ServerSettings) -> None:
        open_to_others = not is_loopback(settings.host)
        self._names = LOCAL_NAMES | {settings.host.lower()}
        self._names |= {name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip()}
        if open_to_others:
            own = socket.gethostname().lower()
            self._names |= {own, f"{own}.local"}
        self._addresses = open_to_others
        self._any_name = open_to_others and settings.api_key is not None

    def check(self, given: list[str]) -> None:
        """Raises `Forbidden`."""
        host = given[0] if len(given) == 1 else ""
        parts = _HOST.fullmatch(host)
        name = (parts[1] or parts[2]).lower() if parts else ""
        if name in self._names or (self._any_name and parts) or (self._addresses and _is_address(name)):
            return
        raise Forbidden(f"The host {host[:80]!r} is not served here; the server's operator can allow it.")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers, method: str) -> None:
    """Pages of other origins may not act through a visitor's browser; a link to us may be followed.

    Another port of this host is another origin, though browsers call it the same site.
    """
    origins = headers.getlist("origin")
    navigates = headers.get("sec-fetch-mode") == "navigate"
    reads = method in ("GET", "HEAD")
    foreign = any(not _is_own(origin, headers.get("host", "")) for origin in origins) or len(origins) > 1
    elsewhere = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    follows_link = reads and navigates and headers.get("sec-fetch-dest", "document") == "document"
    if foreign or (elsewhere and not follows_link) or (navigates and not reads):
        given = ", ".join(origins)[:80] or headers.get("sec-fetch-site", "")
        raise Forbidden(f"Requests from pages of other origins are not let in; this one came from {given!r}.")


def _is_own(origin: str, host: str) -> bool:
    """http or https: a proxy in front of us may add encryption."""
    scheme, _, place = origin.partition("://")
    return scheme in ("http", "https") and place.lower() == host.lower()


def _check_key(headers: Headers, key: bytes) -> None:
    """`Authorization: Bearer KEY`, `X-API-Key: KEY`, or a browser's login box with the key as the password."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    given = headers.get("x-api-key", "")
    if kind.lower() == "bearer":
        given = value.strip()
    elif kind.lower() == "basic":
        given = _password(value)
    if not hmac.compare_digest(given.encode(), key):
        raise Unauthorized("The API key is missing or wrong; send it as 'Authorization: Bearer KEY'.")


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # not base64, or not of text
        return ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
