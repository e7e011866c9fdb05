"""A server as users start it: its own process, a free port on the loopback, the fake pipeline in its worker."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import secrets
import signal
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.object_store import ObjectStore
from tests.postgres import MISSING, Postgres, running_postgres

if TYPE_CHECKING:
    from tests.serving.bench import Bench

ROOT = Path(__file__).parents[2]
FINAL = ("completed", "failed", "cancelled")


class Server:
    """`base` is its URL, `lines` what it has logged so far."""

    def __init__(self, folder: Path, *flags: str, environment: dict[str, str] | None = None, port: int = 0) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.began = time.monotonic()
        command = [sys.executable, "-m", "ltx_a2v", "serve", "--port", str(port)]
        command += [] if "--devices" in flags else ["--device", "cpu"]
        command += ["--output-dir", str(folder / "outputs"), *flags]
        variables = {**os.environ, **fake_engine(folder), **(environment or {})}
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(20) or not hasattr(self, "base"):
            self.client = httpx.Client()
            self.stop(signal.SIGKILL)
            pytest.fail(f"it did not start: {self.lines}")
        self.started_in = time.monotonic() - self.began
        self.client = httpx.Client(base_url=self.base, timeout=60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if match := re.search(r"listening on (http://[^\s\"]+)", line):
                self.base = match[1]
                self._listening.set()
        self._listening.set()

    def create(self, prompt: str = "hello", **fields: Any) -> dict[str, Any]:
        reply = self.client.post("/v1/videos", data={"prompt": prompt, **fields}, files={"audio": wav()})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def get(self, video_id: str) -> dict[str, Any]:
        reply = self.client.get(f"/v1/videos/{video_id}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def jobs(self) -> list[dict[str, Any]]:
        """The newest first."""
        return list(self.client.get("/v1/videos").json()["data"])

    def wait(self, video_id: str, *states: str, seconds: float = 30) -> dict[str, Any]:
        return wait_for(lambda: (v := self.get(video_id))["status"] in (states or FINAL) and v, seconds)

    def make(self, prompt: str = "hello", **fields: Any) -> dict[str, Any]:
        return self.wait(self.create(prompt, **fields)["id"])

    def worker_pid(self) -> int | None:
        """Of the one worker that the server has."""
        workers = self.worker_pids()
        assert len(workers) <= 1, "more than one worker"
        return workers[0] if workers else None

    def worker_pids(self) -> list[int]:
        """Other children check files."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"serving.work.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def worker_state(self) -> str:
        return str(self.client.get("/health").json()["worker"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(5)
        self.client.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def fake_engine(folder: Path) -> dict[str, str]:
    """Environment of a server whose model is four empty files, of which the fake pipeline reads none."""
    model = folder / "model"
    (model / "gemma").mkdir(parents=True, exist_ok=True)
    for name in ("ltx-2.3-fake", "distilled-lora", "spatial-upscaler-x2", "gemma/model"):
        (model / f"{name}.safetensors").write_bytes(b"x" * 10)
    (model / "gemma" / "config.json").write_text("{}")
    engine = "tests.serving.fakes:open_pipeline"
    return {"LTX_A2V_ENGINE": engine, "LTX_A2V_MODEL_DIR": str(model), "PYTHONPATH": str(ROOT)}


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What the condition gives, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition()}"
        time.sleep(0.02)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wav(seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(struct.pack("<h", 0) * int(8000 * seconds))
    return file.getvalue()


def png() -> bytes:
    """1x1, red."""
    return base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )


def data_url(content: bytes, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on this test's folder; ends them with the test."""
    servers: list[Server] = []

    def start_one(*flags: str, **options: Any) -> Server:
        servers.append(Server(options.pop("folder", tmp_path), *flags, **options))
        return servers[-1]

    yield start_one
    for server in servers:
        with contextlib.suppress(ValueError):
            server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that keeps its model loaded, for all tests that neither stop it nor need other flags."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "inputs").mkdir()
    one = Server(folder, "--input-dir", str(folder / "inputs"), "--keep-alive", "-1", "--max-queue", "100")
    yield one
    assert one.stop() == 0


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """Makes a scheduler without HTTP on this test's folder."""
    from tests.serving.bench import Bench

    for name, value in fake_engine(tmp_path).items():
        monkeypatch.setenv(name, value)
    return lambda **settings: Bench(tmp_path, **settings)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as one:
        if one is None:
            pytest.skip(MISSING)
        yield one


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    one = ObjectStore()
    yield one
    one.stop()


@pytest.fixture
def new_bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes empty buckets and gives their URLs; the environment then has what their clients need."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return lambda: f"s3://{object_store.new_bucket(f'test-{secrets.token_hex(6)}')}/some/prefix"


@pytest.fixture
def new_database(postgres: Postgres) -> Callable[[], str]:
    """Makes empty databases and gives their URLs."""
    return lambda: postgres.new_database(f"test_{secrets.token_hex(6)}")
