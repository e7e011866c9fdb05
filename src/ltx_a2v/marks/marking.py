"""How videos are marked, as one value, and the operator's certificate and key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ltx_a2v.errors import InvalidInput, InvalidRequest, named
from ltx_a2v.marks.keys import Credentials, given_credentials
from ltx_a2v.marks.manifest import CannotSign, check_credentials

PROVIDER = "ltx-a2v"
REPRODUCIBLE = "LTX_A2V_REPRODUCIBLE"


def _asked_by_environment() -> bool:
    return os.environ.get(REPRODUCIBLE, "").lower() in ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Marking:
    """How videos are marked. By default: tags, and a manifest that is signed with this installation's key."""

    enabled: bool = True
    """False writes no marks at all; a visible label is the request's."""
    reproducible: bool = field(default_factory=_asked_by_environment)
    """No signature, no time, and an id that follows from the settings: equal requests give equal bytes."""
    provider: str = PROVIDER
    """Who offers the service that makes the videos."""
    certificate: Path | None = None
    """PEM chain to sign with, the signer's own first; with `key`."""
    key: Path | None = None
    """Its private key, as unencrypted PEM."""

    def check(self) -> None:
        """Raises `InvalidRequest` for a provider that no tag can hold, `InvalidInput` for files that cannot sign."""
        if not self.provider.strip() or len(self.provider) > 200 or not self.provider.isprintable():
            raise InvalidRequest("mark_provider", self.provider, "must be 1 to 200 printable characters")
        given = self.credentials()
        if given is not None and not self.reproducible:
            try:
                check_credentials(given)
            except CannotSign as error:
                raise InvalidInput(f"Nothing can be signed with {named('c2pa_cert')}: {error}.") from error

    def credentials(self) -> Credentials | None:
        """Those that were given. Raises as `check`."""
        if self.certificate is None and self.key is None:
            return None
        if self.certificate is None or self.key is None:
            field, other = ("c2pa_key", "c2pa_cert") if self.certificate is None else ("c2pa_cert", "c2pa_key")
            given = self.key or self.certificate
            raise InvalidRequest(field, str(given), f"needs {named(other)} as well: give both, or none of them")
        return given_credentials(self.certificate, self.key)
