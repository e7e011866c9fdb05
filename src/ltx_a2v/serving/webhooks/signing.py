"""Signatures as Standard Webhooks has them: https://github.com/standard-webhooks/standard-webhooks, version 1.0.0."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path

from pydantic import SecretStr

from ltx_a2v.errors import InvalidInput, named
from ltx_a2v.media.output_file import write_whole

FILE = "webhook-secret"
PREFIX = "whsec_"
SECRET_BYTES = 32


class Signer:
    """Signs with a secret that receivers know: `given`, else that of the state folder, made where there is none.

    Raises `InvalidInput` for one that is not `whsec_` and 24 to 64 bytes in base64.
    """

    def __init__(self, given: SecretStr | None, state: Path) -> None:
        if given is not None:
            self._key = _decoded(given.get_secret_value(), named("webhook_secret"))
        else:
            self._key = _decoded(_own(state / FILE), f"The file {state / FILE}")

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
        signature = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{signature}",
        }


def _own(path: Path) -> str:
    """The server's umask keeps it private."""
    if not path.exists():
        write_whole(path, f"{PREFIX}{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}\n".encode())
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The webhook secret {path} cannot be read: {error}. Remove it to get another one."
        ) from None


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else b""
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise InvalidInput(f"{where} holds no webhook secret: write whsec_ and 24 to 64 random bytes in base64.")
    return key
