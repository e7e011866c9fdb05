"""The C2PA manifest of a video: written last, since its signature covers all other bytes, and read again.

The library is imported when it is needed, and asks no network: no time stamps, no remote manifests, no OCSP.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ltx_a2v.errors import A2VError
from ltx_a2v.marks.keys import Credentials
from ltx_a2v.marks.statement import SYSTEM, Statement

SETTINGS = "ltx-a2v.settings"
_MP4 = "video/mp4"
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}}

State = Literal["intact", "changed", "missing", "unknown"]
"""`missing`: the file has none. `unknown`: the library cannot be imported."""


class CannotSign(A2VError):
    """No manifest can be written; the message says why."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a file's manifest."""

    state: State
    problem: str = ""
    """Why the file counts as changed."""
    signer: str = ""
    issuer: str = ""
    is_known: bool = False
    """Whether its certificate is this installation's."""
    generator: str = ""
    """The software that made the claim."""
    source_type: str = ""
    """IPTC's digital source type of the action that created the file."""
    settings: dict[str, Any] | None = None


def check_library() -> None:
    """Raises `CannotSign`."""
    try:
        import c2pa  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: its library cannot be loaded here
        raise CannotSign(f"the library c2pa-python cannot be used here ({error})") from error


def sign(source: Path, target: Path, statement: Statement, credentials: Credentials) -> None:
    """Write `source` with a manifest to `target`. Raises `CannotSign`, and `OSError` of the file system."""
    check_library()
    import c2pa

    try:
        with (
            _signer(credentials) as signer,
            c2pa.Builder(json.dumps(_definition(statement))) as builder,
            source.open("rb") as unsigned,
            target.open("w+b") as signed,
        ):
            builder.sign(signer, _MP4, unsigned, signed)
    except c2pa.C2paError as error:
        raise CannotSign(_first_line(error)) from error


@lru_cache(maxsize=4)
def check_credentials(credentials: Credentials) -> None:
    """Raises `CannotSign` where the library refuses them, which it says only when it signs."""
    check_library()
    import c2pa
    from PIL import Image

    picture, out = io.BytesIO(), io.BytesIO()
    Image.new("L", (1, 1)).save(picture, "PNG")
    picture.seek(0)
    trial = _definition(Statement("", "0", "", "2026-01-01T00:00:00Z", "", True)) | {"format": "image/png"}
    try:
        with _signer(credentials) as signer, c2pa.Builder(json.dumps(trial)) as builder:
            builder.sign(signer, "image/png", picture, out)
    except c2pa.C2paError as error:
        raise CannotSign(_first_line(error)) from error


def read(path: Path, known: str | None) -> Manifest:
    """Check the file's manifest; `known` is the root certificate, in PEM, of the signers that count as known."""
    try:
        check_library()
    except CannotSign as error:
        return Manifest("unknown", str(error))
    import c2pa

    settings = {**_OFFLINE, **({"trust": {"user_anchors": known}} if known else {})}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            path.open("rb") as file,
            c2pa.Reader(_MP4, file, context=context) as reader,
        ):
            found, state = json.loads(reader.json()), reader.get_validation_state()
    except c2pa.C2paError.ManifestNotFound:
        return Manifest("missing")
    except c2pa.C2paError as error:
        return Manifest("changed", _first_line(error))
    return _manifest(found, state)


def _signer(credentials: Credentials) -> Any:
    import c2pa

    algorithm, chain, key = (text.encode() for text in (credentials.algorithm, credentials.chain, credentials.key))
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None))


def _definition(statement: Statement) -> dict[str, Any]:
    software = {"name": SYSTEM, "version": statement.version}
    inputs = statement.settings.get("inputs", ())
    return {
        "claim_generator_info": [software],
        "title": statement.id,
        "format": _MP4,
        "ingredients": [
            {
                "title": each["kind"],
                "format": "application/octet-stream",
                "relationship": "inputTo",
                "instance_id": f"sha256:{each['sha256']}",
            }
            for each in inputs
        ],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "when": statement.time,
                            "digitalSourceType": statement.source_type,
                            "softwareAgent": software,
                            "description": statement.comment(),
                        }
                    ]
                },
            },
            {"label": SETTINGS, "data": {**statement.as_json(), **statement.settings}},
        ],
    }


def _manifest(found: dict[str, Any], state: str | None) -> Manifest:
    active = found.get("manifests", {}).get(found.get("active_manifest"), {})
    signature = active.get("signature_info") or {}
    assertions = {each.get("label"): each.get("data") for each in active.get("assertions", ())}
    created = _first((assertions.get("c2pa.actions.v2") or {}).get("actions"))
    generator = _first(active.get("claim_generator_info"))
    said = assertions.get(SETTINGS)
    problems = [
        each for each in found.get("validation_status", ()) if each.get("code") != "signingCredential.untrusted"
    ]
    return Manifest(
        state="intact" if state in ("Valid", "Trusted") else "changed",
        problem=problems[0].get("explanation") or problems[0].get("code", "") if problems else "",
        signer=signature.get("common_name") or "",
        issuer=signature.get("issuer") or "",
        is_known=state == "Trusted",
        generator=" ".join(str(generator.get(name, "")) for name in ("name", "version")).strip(),
        source_type=created.get("digitalSourceType", ""),
        settings=said if isinstance(said, dict) else None,
    )


def _first(values: list[dict[str, Any]] | None) -> dict[str, Any]:
    return values[0] if values else {}


def _first_line(error: Exception) -> str:
    """What the library says, without its places in the manifest."""
    return " ".join(str(error).split("(self#")[0].split()).rstrip(".:")
