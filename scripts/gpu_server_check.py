"""Does a server give the whole GPU back? The miniature model, a minute, one command:

    uv run python scripts/gpu_server_check.py

Starts `ltx-a2v serve` on the GPU and reads the driver's count of used memory: with a standby worker, after a job, after
unloading, and after a job with keep-alive 0. Others must not use the GPU meanwhile.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from ltx_a2v.hardware.driver import read_memory
from ltx_a2v.miniature import ensure_miniature

ROOT = Path(__file__).parents[1]
MIB = 2**20
PORT = 8893


def used() -> float:
    """MiB of the GPU, by whomever."""
    memory = read_memory("cuda", None)
    if memory is None:
        raise SystemExit("the driver does not answer: this check needs an NVIDIA GPU")
    return memory.used / MIB


def say(what: str, before: float) -> float:
    more = used() - before
    sys.stdout.write(f"{what:<44} {more:8.1f} MiB above the beginning\n")
    sys.stdout.flush()
    return more


@contextlib.contextmanager
def served(folder: Path) -> Iterator[httpx.Client]:
    ensure_miniature(folder / "model")
    command = [sys.executable, "-m", "ltx_a2v", "serve", "--port", str(PORT), "--device", "cuda"]
    command += ["--model-dir", folder / "model", "--output-dir", folder / "outputs", "--input-dir", ROOT / "examples"]
    command += ["--transformer-quantization", "int8"]
    server = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120) as client:
            yield client
    finally:
        server.terminate()
        server.wait(30)


def wait_for(client: httpx.Client, state: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").json()["worker"] == state:
                return
        time.sleep(0.2)
    raise SystemExit(f"the worker did not become {state!r} within a minute")


def generate(client: httpx.Client, keep_alive: str) -> float:
    size = {"width": 256, "height": 192, "num_frames": 25, "num_inference_steps": 4}
    files = {"image": "robot.png", "audio": "speech.wav"}
    began = time.perf_counter()
    reply = client.post("/generate", json={"prompt": "A robot speaks.", **files, **size, "keep_alive": keep_alive})
    if reply.is_error:
        raise SystemExit(f"generate answered {reply.status_code}: {reply.text}")
    return time.perf_counter() - began


def main() -> int:
    before = used()
    failed = []

    def expect(what: str, more: float, at_most: float) -> None:
        if more > at_most:
            failed.append(f"{what}: {more:.0f} MiB")

    with tempfile.TemporaryDirectory() as name, served(Path(name)) as client:
        wait_for(client, "standby")
        expect("standby", say("standby, imports done", before), 1)
        cold = generate(client, "5m")
        warm = generate(client, "5m")
        held = say("after a job, kept alive", before)
        if held < 100:
            failed.append("a kept model holds nothing, so this check sees nothing")
        sys.stdout.write(f"/api/ps: {client.get('/api/ps').json()}\n/api/status: {client.get('/api/status').json()}\n")
        client.post("/api/unload")
        expect("unloaded", say("after unload", before), 1)
        wait_for(client, "standby")
        generate(client, "0")
        wait_for(client, "standby")
        expect("cold start", say("after a job with keep-alive 0", before), 1)
        sys.stdout.write(f"first job {cold:.1f} s, second {warm:.1f} s\n")
    expect("ended", say("server ended", before), 1)
    sys.stdout.write(f"FAILED: {', '.join(failed)}\n" if failed else "all passed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
