"""Many clips on one GPU and on several of one host: how many come in a minute. One command, no files needed:

    python scripts/devices_check.py [--gpus 2] [--mode fp8-scaled-mm] [--quality fast] [--size 768x512] [--jobs 8]
    python scripts/devices_check.py --tiny          the talking miniature in workers on the CPU, to try this script

A model with random weights of the real shapes is written to `--work` (78 GB; /dev/shm is memory) unless it is there.
`ltx-a2v serve --devices` runs with one device and with all of them: a first video on each device loads the model, then
`--jobs` requests are sent at once. Prints a line of JSON for each server: seconds from the first request to the last
video, the videos by device, and the host memory that the server and its workers use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
PORT = 8894
PATIENCE_S = 300


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--mode", default="fp8-scaled-mm")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--size", default="768x512")
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/ltx-a2v-devices-check"))
    parser.add_argument("--tiny", action="store_true", help="the talking miniature on the CPU")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.size, arguments.frames, arguments.jobs = "128x128", 9, 4
    elif not arguments.work.exists():
        command = [sys.executable, "-m", "ltx_a2v", "bench", "synthetic", "--output", str(arguments.work)]
        subprocess.run(command, check=True)
    alone, together = (measure(count, arguments) for count in (1, arguments.gpus))
    say(gpus=arguments.gpus, times_as_many=round(alone / together, 2))
    return 0


def measure(count: int, arguments: argparse.Namespace) -> float:
    """Seconds for all jobs on `count` devices."""
    kind = "cpu" if arguments.tiny else "cuda"
    with served(",".join(f"{kind}:{index}" for index in range(count)), arguments) as (server, client):
        until(client, {post(client, arguments) for _ in range(count)})
        began = time.perf_counter()
        jobs = until(client, {post(client, arguments) for _ in range(arguments.jobs)})
        seconds = time.perf_counter() - began
        devices = dict(Counter(job["device"] for job in jobs))
        say(gpus=count, seconds=round(seconds, 2), devices=devices, host_gib=round(host_bytes(server.pid) / 2**30, 2))
        return seconds


@contextmanager
def served(devices: str, arguments: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    if arguments.tiny:
        model = ["--demo"]
    else:
        model = ["--model-dir", str(arguments.work), "--transformer-quantization", arguments.mode]
        model += ["--text-encoder-quantization", "int4"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ltx_a2v", "serve", "--port", str(PORT), "--devices", devices, *model]
        command += ["--output-dir", folder, "--input-dir", str(ROOT / "examples")]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
                wait_for_workers(server, client)
                yield server, client
        finally:
            server.terminate()
            server.wait(60)


def wait_for_workers(server: subprocess.Popen[bytes], client: httpx.Client) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        with suppress(httpx.TransportError):
            if client.get("/ready").is_success:
                return
        time.sleep(0.2)
    raise SystemExit(f"the server did not become ready in {PATIENCE_S} s")


def post(client: httpx.Client, arguments: argparse.Namespace) -> str:
    fields = {
        "prompt": "A robot speaks.",
        "input_reference": "robot.png",
        "audio": "speech.wav",
        "quality": arguments.quality,
    }
    reply = client.post("/v1/videos", json={**fields, "size": arguments.size, "num_frames": arguments.frames})
    if reply.is_error:
        raise SystemExit(f"the request was answered with {reply.status_code}: {reply.text}")
    return str(reply.json()["id"])


def until(client: httpx.Client, waited_for: set[str]) -> list[dict[str, Any]]:
    """The finished jobs."""
    done: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and len(done) < len(waited_for):
        for name in waited_for - set(done):
            job = client.get(f"/v1/videos/{name}").json()
            if job["status"] == "failed":
                raise SystemExit(f"a job failed: {job['error']}")
            if job["status"] == "completed":
                done[name] = job
        time.sleep(0.02)
    if len(done) < len(waited_for):
        raise SystemExit(f"{len(waited_for) - len(done)} jobs were not finished in {PATIENCE_S} s")
    return list(done.values())


def host_bytes(parent: int) -> int:
    """Memory of the process and those that it started; what they share is divided among them (PSS)."""
    rollup = Path(f"/proc/{parent}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return own + sum(host_bytes(int(child)) for child in children)


def say(**fields: object) -> None:
    sys.stdout.write(f"{json.dumps(fields)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("LTX_A2V_CACHE_DIR", str(Path(tempfile.gettempdir()) / "ltx-a2v-cache"))
    sys.exit(main())
