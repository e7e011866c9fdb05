"""The key that manifests are signed with, and its certificates: this installation's own, or given ones.

The own ones are made once: a certificate authority whose key is thrown away at once, because C2PA accepts no
self-signed certificate, and one certificate that it has signed. They prove that a file is unchanged and that videos
come from the same installation, not who runs it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_a2v.errors import InvalidInput, InvalidOutput, named
from ltx_a2v.media.output_file import write_whole
from ltx_a2v.settings.defaults import data_dir

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

FILE = "signing-key.pem"
PUBLIC_FILE = "signing-certificate.pem"
"""The certificates alone: what reads videos of others need not read the key."""
ORGANISATION = "ltx-a2v, self-made certificate"
LIFETIME = timedelta(days=30 * 365)
"""A manifest without a time stamp is valid no longer than its certificate."""
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, repr=False)
class Credentials:
    """A private key and the certificates that belong to it."""

    chain: str
    """PEM, the signer's own certificate first."""
    key: str
    """PEM."""
    algorithm: str
    """As C2PA calls it: es256, ps256, ed25519 and so on."""


def own_credentials() -> Credentials:
    """This installation's, made where there are none.

    Raises `InvalidOutput` where they cannot be kept, `InvalidInput` where their file cannot be used.
    """
    path = data_dir() / FILE
    if not path.exists():
        _make(path)
    own = _read_own(path)
    if own_root() != _last(own.chain):
        with suppress(InvalidOutput):
            write_whole(path.with_name(PUBLIC_FILE), own.chain.encode())
    return own


def own_root() -> str | None:
    """The certificate that this installation's is signed with; None where there is none."""
    try:
        return _last((data_dir() / PUBLIC_FILE).read_text("ascii"))
    except (OSError, ValueError):
        return None


def given_credentials(certificate: Path, key: Path) -> Credentials:
    """Raises `InvalidInput` where a file cannot be read, both do not belong together, or the certificate expired."""
    return _credentials(
        _text(certificate, named("c2pa_cert")),
        _text(key, named("c2pa_key")),
        f"{named('c2pa_cert')} {certificate}",
        f"{named('c2pa_key')} {key}",
    )


def _read_own(path: Path) -> Credentials:
    try:
        text = path.read_text("ascii")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        return _credentials(text[begin:], text[:begin], "its certificate", "its key")
    except OSError as error:
        raise InvalidInput(f"The signing key {path} cannot be read: {error.strerror}. {_WAYS_OUT}") from error
    except ValueError as error:
        raise InvalidInput(f"The signing key {path} is damaged. {_WAYS_OUT}") from error
    except InvalidInput as error:
        raise InvalidInput(f"The signing key {path} cannot be used: {error.template} {_WAYS_OUT}") from error


_WAYS_OUT = f"Repair it, or remove it: the next video makes another one. {named('marks')} makes videos without any."


def _credentials(chain: str, key: str, what_chain: str, what_key: str) -> Credentials:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise InvalidInput(f"{what_chain} is no certificate in PEM.") from error
    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise InvalidInput(f"{what_key} is no private key in PEM without a password.") from error
    signer = certificates[0]
    if private.public_key() != signer.public_key():
        raise InvalidInput(f"{what_key} is not the key of the first certificate in {what_chain}.")
    now = datetime.now(UTC)
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        span = f"{signer.not_valid_before_utc:%Y-%m-%d} to {signer.not_valid_after_utc:%Y-%m-%d}"
        raise InvalidInput(f"{what_chain} is valid from {span}, not now.")
    algorithm = _algorithm(private)
    if algorithm is None:
        raise InvalidInput(f"{what_key} cannot sign for C2PA: use ES256, ES384, ES512, Ed25519, or RSA from 2048 bits.")
    return Credentials(chain, key, algorithm)


def _algorithm(key: PrivateKeyTypes) -> str | None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES.get(key.curve.name)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def _last(chain: str) -> str:
    """The last certificate of a chain in PEM."""
    return chain[chain.rindex("-----BEGIN CERTIFICATE-----") :]


def _text(path: Path, what: str) -> str:
    try:
        return path.expanduser().read_text("ascii")
    except OSError as error:
        raise InvalidInput(f"{what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidInput(f"{what} {path} is no PEM file.") from error


def _make(path: Path) -> None:
    """Of two processes, the first one's stays."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{FILE}.", suffix=".part", dir=path.parent)  # of mode 0600
        part = Path(name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(_new_pem())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidOutput(
            f"The signing key cannot be kept in {path.parent} ({error.strerror}); set LTX_A2V_DATA_DIR to a folder "
            "that can be written."
        ) from error


def _new_pem() -> str:
    """The key, its certificate, and its authority's."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    number = secrets.token_hex(4)
    root = _builder(f"Authority of installation {number}", number, authority.public_key(), authority.public_key(), True)
    leaf = _builder(f"Installation {number}", number, key.public_key(), authority.public_key(), False)
    certificates = [builder.sign(authority, hashes.SHA256()) for builder in (leaf, root)]
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join([private, *(each.public_bytes(Encoding.PEM) for each in certificates)]).decode()


def _builder(
    name: str,
    number: str,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    is_authority: bool,
) -> x509.CertificateBuilder:
    """What C2PA asks of certificates: key identifiers, and the signer's only for documents and mail."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(f"Authority of installation {number}"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
    if is_authority:
        return builder
    document_signing = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, document_signing])
    return builder.add_extension(purposes, critical=False)


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = ((NameOID.ORGANIZATION_NAME, ORGANISATION), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
