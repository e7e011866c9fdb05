"""The installation's key, and given certificates."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from ltx_a2v import A2VPipeline, LoadOptions
from ltx_a2v.cli.main import main
from ltx_a2v.errors import InvalidInput
from ltx_a2v.marks import keys
from ltx_a2v.marks.inspection import inspect_video
from ltx_a2v.marks.keys import own_credentials, own_root
from ltx_a2v.marks.marking import Marking
from ltx_a2v.puppet.examples import SPEECH
from tests.marks.conftest import Made


def test_the_key_is_made_once_for_its_user_only(own_data: Path) -> None:
    first = own_credentials()
    assert own_data.stat().st_mode & 0o777 == 0o700
    assert (own_data / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert (own_credentials().key, own_credentials().chain) == (first.key, first.chain)
    assert {path.name for path in own_data.iterdir()} == {"signing-key.pem", "signing-certificate.pem"}
    assert "PRIVATE" not in (own_data / "signing-certificate.pem").read_text()


def test_processes_that_start_together_get_one_key(own_data: Path) -> None:
    code = "from ltx_a2v.marks.keys import own_credentials; print(hash(own_credentials().key))"
    command = [sys.executable, "-c", code]
    env = {"PYTHONHASHSEED": "0", "LTX_A2V_DATA_DIR": str(own_data)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert {path.name for path in own_data.iterdir()} == {"signing-key.pem", "signing-certificate.pem"}


def test_a_process_that_comes_second_takes_the_first_ones_key(own_data: Path) -> None:
    first = own_credentials()
    keys._make(own_data / "signing-key.pem")
    assert own_credentials().key == first.key


def test_a_new_key_replaces_the_certificate_of_the_old_one(own_data: Path) -> None:
    own_credentials()
    before = own_root()
    (own_data / "signing-key.pem").unlink()
    own_credentials()
    assert own_root() not in (before, None)


def test_an_expired_own_key_is_one_sentence(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LIFETIME", timedelta(hours=-1))
    with pytest.raises(InvalidInput, match=r"cannot be used: its certificate is valid from .*, not now"):
        own_credentials()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    return _write(tmp_path, "one")


def test_a_given_certificate_signs(made: Made, files: tuple[Path, Path], tmp_path: Path) -> None:
    marking = Marking(reproducible=False, provider="Example Ltd", certificate=files[0], key=files[1])
    pipeline = A2VPipeline.open(made.pipeline.model.files.paths, device="cpu", options=LoadOptions(marking=marking))
    pipeline.run(made.request.model_copy(update={"output_path": tmp_path / "a.mp4", "num_inference_steps": 1}))
    found = inspect_video(tmp_path / "a.mp4")
    assert (found.state, found.manifest.is_known) == ("intact", False)
    assert found.statement is not None
    assert found.statement.provider == "Example Ltd"


@pytest.mark.parametrize("given", ["--c2pa-cert", "--c2pa-key"])
def test_one_without_the_other(given: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    other = {"--c2pa-cert": "--c2pa-key", "--c2pa-key": "--c2pa-cert"}[given]
    assert _generate(given, str(files[0])) == 2
    assert f"needs {other} as well: give both, or none of them" in capsys.readouterr().err


def test_a_key_of_another_certificate(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not the key of the first certificate in c2pa_cert"):
        Marking(certificate=files[0], key=_write(tmp_path, "two")[1]).check()


def test_an_expired_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LIFETIME", timedelta(hours=-1))
    cert, key = _write(tmp_path, "old")
    with pytest.raises(InvalidInput, match=r"c2pa_cert .* is valid from .*, not now"):
        Marking(certificate=cert, key=key).check()


@pytest.mark.parametrize(
    ("which", "content", "said"),
    [
        (0, None, "cannot be read: No such file"),
        (1, None, "cannot be read: No such file"),
        (0, b"no", "is no certificate in PEM"),
        (1, b"no", "is no private key in PEM without a password"),
        (1, b"\xff", "is no PEM file"),
    ],
)
def test_files_that_cannot_be_used(which: int, content: bytes | None, said: str, files: tuple[Path, Path]) -> None:
    files[which].unlink() if content is None else files[which].write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        Marking(certificate=files[0], key=files[1]).check()


def test_a_key_with_a_password(files: tuple[Path, Path]) -> None:
    secret = load_pem_private_key(files[1].read_bytes(), None)
    files[1].write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a")))
    with pytest.raises(InvalidInput, match="without a password"):
        Marking(certificate=files[0], key=files[1]).check()


def test_a_certificate_that_the_library_refuses_is_found_before_any_work(files: tuple[Path, Path]) -> None:
    """C2PA takes no self-signed certificate."""
    secret = load_pem_private_key(files[1].read_bytes(), None)
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    alone = keys._builder("Authority of installation 1", "1", secret.public_key(), secret.public_key(), True)
    files[0].write_bytes(alone.sign(secret, SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(InvalidInput, match="Nothing can be signed"):
        Marking(reproducible=False, certificate=files[0], key=files[1]).check()


def _write(folder: Path, name: str) -> tuple[Path, Path]:
    text = keys._new_pem()
    begin = text.index("-----BEGIN CERT")
    cert, key = folder / f"{name}.cert.pem", folder / f"{name}.key.pem"
    cert.write_text(text[begin:])
    key.write_text(text[:begin])
    return cert, key


def _generate(*flags: str) -> int:
    return main(["generate", "--prompt", "p", "--audio", str(SPEECH), *flags])
