"""Who is let in: the API key, the addressed host, the page that a browser request comes from."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltx_a2v.errors import A2VError, Forbidden, InvalidInput, Unauthorized
from ltx_a2v.serving.http.replies import error_reply
from ltx_a2v.settings.server import ServerSettings

LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def check_bind(settings: ServerSettings) -> None:
    """Raises `InvalidInput` for an address that strangers reach while no key keeps them out."""
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
        self._hosts = LOCAL_NAMES | {name.strip() for name in settings.allowed_hosts.split(",") if name.strip()}
        self._any_host = not is_loopback(settings.host)

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
        self._check_host(headers.get("host", ""))
        _check_origin(headers)
        if self._key is not None and scope["path"] != "/health":
            _check_key(headers, self._key)

    def _check_host(self, host: str) -> None:
        """A name that resolves to this machine must not lend a foreign page our origin (DNS rebinding)."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if not self._any_host and name.strip("[]").lower() not in self._hosts:
            raise Forbidden(f"The host {host!r} is not served here; add it with --allowed-hosts.")


def _check_origin(headers: Headers) -> None:
    """Pages of other origins may not act through a visitor's browser; a link to us may be followed."""
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    follows_link = origin is None and headers.get("sec-fetch-mode") == "navigate"
    if foreign or (headers.get("sec-fetch-site") == "cross-site" and not follows_link):
        raise Forbidden(f"Requests from pages of other origins are not let in; this one came from {origin!r}.")


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
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
