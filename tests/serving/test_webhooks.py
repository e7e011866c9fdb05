"""Webhooks: who is told, how it is signed, what happens when nobody answers, and where nothing is ever sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from standardwebhooks import Webhook

from ltx_a2v.errors import InvalidInput, InvalidRequest
from ltx_a2v.serving.http.models import Video
from ltx_a2v.serving.jobs.records import Job, JobStore
from ltx_a2v.serving.webhooks import sending
from ltx_a2v.serving.webhooks.courier import Courier
from ltx_a2v.serving.webhooks.places import Places, Refused
from ltx_a2v.serving.webhooks.signing import Signer
from ltx_a2v.serving.work.changes import Changes
from tests.serving.conftest import Server, wait_for, wav
from tests.serving.receiver import SECRET, Receiver, receiving

# -- a server ----------------------------------------------------------------------------------------------------------


def test_ends_of_jobs_are_told_once_and_signed(start: Any) -> None:
    with receiving() as receiver:
        server = start("--webhook-allow", f"127.0.0.1:{receiver.port}")
        video = server.make(webhook_url=receiver.url)
        failed = server.make("fail-at=decode", webhook_url=receiver.url)
        running = server.create("slow=0.2", num_inference_steps=1000)
        cancelled = server.create(webhook_url=receiver.url)
        for job in (cancelled, running):
            server.client.post(f"/v1/videos/{job['id']}/cancel")
        wait_for(lambda: len(receiver.bodies) == 3)
        told = {event["type"]: event for event in receiver.events}
        assert told["video.completed"]["data"] == server.get(video["id"])
        assert told["video.failed"]["data"]["error"]["code"] == failed["error"]["code"] == "invalid_audio"
        assert told["video.cancelled"]["data"]["id"] == cancelled["id"]
        secret = server.folder / "outputs" / ".state" / "webhook-secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
            Webhook(secret.read_text().strip()).verify(body, headers)
        wait_for(lambda: sum("[webhook] told" in line for line in server.lines) == 3)
        assert "hidden" not in "\n".join(server.lines), "a URL may hold a secret"
        assert "hidden" not in server.client.get("/v1/videos").text
        outputs = list((server.folder / "outputs" / video["id"]).iterdir())
        assert outputs
        assert not any(b"hidden" in path.read_bytes() for path in outputs)
        elsewhere = server.client.post(
            "/v1/videos", data={"prompt": "x", "webhook_url": "http://127.0.0.1/x"}, files={"audio": wav()}
        )
        assert (elsewhere.status_code, elsewhere.json()["error"]["param"]) == (422, "webhook_url")
        server.stop()
        assert len(receiver.bodies) == 3


def test_without_allowed_places_there_are_no_webhooks(server: Server) -> None:
    fields = {"prompt": "x", "webhook_url": "https://example.org/"}
    reply = server.client.post("/v1/videos", data=fields, files={"audio": wav()})
    assert reply.status_code == 422
    message = "webhook_url is not possible here: the server's operator has allowed no place with --webhook-allow."
    assert reply.json()["error"]["message"] == message
    assert not (server.folder / "outputs" / ".state" / "webhook-secret").exists()


# -- signatures --------------------------------------------------------------------------------------------------------


def test_the_schema_describes_them(server: Server) -> None:
    schema = server.client.get("/openapi.json").json()
    (webhook,) = schema["webhooks"].values()
    names = [parameter["name"] for parameter in webhook["post"]["parameters"]]
    assert names == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    body = webhook["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/VideoEvent"}
    event = schema["components"]["schemas"]["VideoEvent"]["properties"]
    assert event["type"]["enum"] == ["video.completed", "video.failed", "video.cancelled"]
    assert event["data"]["$ref"] == "#/components/schemas/Video"
    assert list(webhook["post"]["responses"]) == ["200"]


def test_the_signature_is_that_of_the_standard(tmp_path: Path) -> None:
    """The example of the specification's reference libraries."""
    headers = Signer(SecretStr(SECRET), tmp_path).headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_own_secret_is_made_once(tmp_path: Path) -> None:
    first, second = (Signer(None, tmp_path).headers("id", 1, b"x") for _ in range(2))
    assert first == second
    (tmp_path / "webhook-secret").write_text("damaged")
    for given in (None, SecretStr("secret"), SecretStr("whsec_c2hvcnQ=")):
        with pytest.raises(InvalidInput, match="holds no webhook secret"):
            Signer(given, tmp_path)


# -- retries -----------------------------------------------------------------------------------------------------------


class Sender:
    """A courier over its own records. Each of its `tell` runs until the condition is true, as a server's life does."""

    def __init__(self, folder: Path, url: str, allowed: str) -> None:
        self._path = folder / "jobs.sqlite3"
        self._signer = Signer(SecretStr(SECRET), folder)
        self._places = Places([allowed])
        self.store = JobStore(self._path)
        self.store.add("video_a", {"prompt": "x"}, None, False, 10, webhook=url)
        self.store.complete("video_a", {})

    @property
    def job(self) -> Job:
        job = self.store.get("video_a")
        assert job is not None
        return job

    def tell(self, until: Callable[[Job], bool], *delays: float) -> None:
        asyncio.run(self._tell(until, delays))

    async def _tell(self, until: Callable[[Job], bool], delays: tuple[float, ...]) -> None:
        async def video(job: Job) -> Any:
            return Video.model_construct(id=job.id)

        courier = asyncio.create_task(
            Courier(self.store, Changes(), self._places, self._signer, video, delays or (0.01,) * 3).run()
        )
        end = time.monotonic() + 20
        while not until(self.job):
            assert not courier.done(), courier.exception()
            assert time.monotonic() < end, self.job
            await asyncio.sleep(0.01)
        courier.cancel()
        _, going_on = await asyncio.wait([courier], timeout=20)
        assert not going_on

    def restart(self) -> None:
        self.store.close()
        self.store = JobStore(self._path)


@pytest.fixture
def sender(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    senders: list[Sender] = []

    def make(receiver: Receiver) -> Sender:
        senders.append(Sender(tmp_path, receiver.url, f"127.0.0.1:{receiver.port}"))
        return senders[-1]

    yield make
    for one in senders:
        one.store.close()


def test_a_receiver_is_told_until_it_has_understood_also_by_the_next_server(sender: Any) -> None:
    with receiving() as receiver:
        receiver.replies = [500, 302, 404, 200]
        one = sender(receiver)
        one.tell(lambda job: job.webhook_tries == 2 and job.webhook_at > time.time() + 1000, 0.01, 3600)
        one.restart()
        assert len(receiver.bodies) == 2
        one.store.delay_webhook("video_a", 0)
        one.tell(lambda job: job.webhook_at is None, 0.01, 0.01, 0.01)
        assert (one.job.webhook_tries, len(receiver.bodies)) == (4, 4)
        assert {headers["webhook-id"] for headers in receiver.headers} == {"msg_a"}
        assert len(set(receiver.bodies)) == 1


@pytest.mark.parametrize(("replies", "tries"), [([500] * 9, 4), ([500, 410], 2)])
def test_a_receiver_is_given_up(sender: Any, replies: list[int], tries: int) -> None:
    with receiving() as receiver:
        receiver.replies = list(replies)
        one = sender(receiver)
        one.tell(lambda job: job.webhook_at is None)
        assert len(receiver.bodies) == tries


def test_a_try_that_is_cut_off_is_made_again(sender: Any) -> None:
    """The server stops while the receiver thinks."""
    asked, goes_on = threading.Event(), threading.Event()

    def think(handler: BaseHTTPRequestHandler, status: int) -> None:
        asked.set()
        goes_on.wait(20)
        handler.send_response(status)
        handler.end_headers()

    with receiving(think) as receiver:
        one = sender(receiver)
        one.tell(lambda _: asked.is_set())
        assert one.job.webhook_at <= time.time()
        goes_on.set()
        one.restart()
        one.tell(lambda job: job.webhook_at is None)
        assert len(receiver.bodies) == 2


def test_a_deleted_job_is_not_told(sender: Any) -> None:
    with receiving() as receiver:
        one = sender(receiver)
        one.store.delete("video_a")
        assert one.store.next_webhook_at() == float("inf")
        assert one.store.take_webhook(time.time(), 0) is None


# -- what a receiver may do --------------------------------------------------------------------------------------------


def _send(receiver: Receiver, url: str | None = None, *allowed: str) -> int:
    places = Places([f"127.0.0.1:{receiver.port}", *allowed])
    return asyncio.run(sending.send(places, places.target(url or receiver.url), {"x": "y"}, b"{}"))


def test_redirects_are_not_followed() -> None:
    def redirect(handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(307)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with receiving(redirect) as receiver:
        assert _send(receiver) == 307
        assert len(receiver.bodies) == 1


def test_a_long_reply_is_not_read_to_its_end() -> None:
    broken = threading.Event()

    def endless(handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(2**16))
        except OSError:
            broken.set()

    with receiving(endless) as receiver:
        assert _send(receiver) == 200
        assert broken.wait(20)


def test_a_receiver_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.2)
    goes_on = threading.Event()
    with receiving(lambda *_: goes_on.wait(20) and None) as receiver:
        with pytest.raises(Exception, match=r"^$") as raised:
            _send(receiver)
        assert "Timeout" in type(raised.value).__name__
        goes_on.set()


# -- where nothing is sent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/",
        "https://hooks.example.evil.example/",
        "https://hooks.example:8443/",
        "http://hooks.example:443/",
        "https://hooks.example@evil.example/",
        "https://user:password@hooks.example/",
        "https://evil.example\\@hooks.example/",
        "https://hooks.example#@evil.example/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: evil.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "//hooks.example/",
        "https://",
        "https://hooks.example:0/",
        "https://hooks.example:99999/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://localhost/",
        "http://①②⑦.0.0.1/",
        "",
    ],
)
def test_only_allowed_places_are_urls(url: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Places(["hooks.example", "10.1.2.3:9000"]).target(url)
    assert "password" not in url or "user:" not in str(raised.value)


def test_allowed_places() -> None:
    places = Places(["Hooks.Example", "10.1.2.3:9000", "[::1]:9000"])
    assert places.target("HTTPS://hooks.example").at("1.2.3.4") == "https://1.2.3.4:443/"
    assert places.target("http://hooks.example?a=b").at("::2") == "http://[::2]:80/?a=b"
    assert places.target("http://10.1.2.3:9000/x").authority == "10.1.2.3:9000"
    assert places.target("http://[0:0::1]:9000/x").authority == "[::1]:9000"
    for wrong in ("", "https://hooks.example", "hooks.example/x", "host:0", "host:x", "a b"):
        with pytest.raises(InvalidInput, match="is no place"):
            Places([wrong])


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255"),
        *(
            "::1",
            "::",
            "fec0::1",
            "::127.0.0.1",
            "fe80::1",
            "fe80::1%1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
        ),
        *("::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
def test_names_that_lead_inside_are_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    _names(monkeypatch, ["93.184.215.14", address])  # one good address does not help
    places = Places(["hooks.example", "10.0.0.1:9000"])
    with pytest.raises(Refused, match="is not public and is not allowed itself"):
        asyncio.run(places.addresses(places.target("https://hooks.example/")))


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "127.1", "017700000001"])
def test_other_spellings_of_addresses_are_refused(spelling: str) -> None:
    """Even where an operator allows one, the resolver reads it as an address that is not public."""
    places = Places([spelling])
    with pytest.raises((Refused, OSError)):
        asyncio.run(places.addresses(places.target(f"http://{spelling}/")))


def test_addresses_that_are_allowed_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    _names(monkeypatch, ["10.0.0.1"])
    places = Places(["hooks.example", "10.0.0.1", "localhost:9000"])
    found = asyncio.run(places.addresses(places.target("https://hooks.example/")))
    assert found == ["10.0.0.1"]
    local = asyncio.run(places.addresses(places.target("http://localhost:9000/")))
    assert local == ["127.0.0.1", "::1"]


def test_public_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    public = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
    _names(monkeypatch, public)
    places = Places(["hooks.example"])
    assert asyncio.run(places.addresses(places.target("https://hooks.example/"))) == public


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer of DNS, another one, would change nothing: nobody asks."""
    with receiving() as receiver:
        asked = _names(monkeypatch, ["127.0.0.1"])
        assert _send(receiver, f"http://hooks.example:{receiver.port}/", f"hooks.example:{receiver.port}") == 204
        assert asked == ["hooks.example"]
        assert receiver.headers[0]["host"] == f"hooks.example:{receiver.port}"


def test_the_certificate_must_be_the_name_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The connection goes to an address; the other side still has to prove the name."""
    certificate = _certificate(tmp_path, "hooks.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    _names(monkeypatch, ["127.0.0.1"])
    with receiving(tls=tls) as receiver:
        for host, accepted in (("hooks.example", True), ("other.example", False)):
            place = f"{host}:{receiver.port}"
            if accepted:
                assert _send(receiver, f"https://{place}/", place) == 204
            else:
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    _send(receiver, f"https://{place}/", place)


def _certificate(folder: Path, name: str) -> Path:
    """Self-signed, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


def _names(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> list[str]:
    """Names lead to these addresses; the names that were asked for."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if not str(host).endswith(".example"):
            return real(host, port, *arguments, **named)
        asked.append(host)
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked
