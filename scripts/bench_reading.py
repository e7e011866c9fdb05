"""Measure ways to read a checkpoint, each in a process of its own, and print a Markdown table.

    uv run --with fastsafetensors --with runai-model-streamer python scripts/bench_reading.py --gib 5

A file like a transformer's is written, then read cold (nothing of it in the page cache) and from the page cache. On
the CPU, tensors are summed up and dropped one by one, so that mapped bytes are read too. Memory is the process's peak
above what it had before reading. Packages that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ltx_a2v.checkpoint.reader import stream_tensors
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile

GIB = 2**30
BATCH_BYTES = GIB // 4
"""For packages that can be bounded; the largest tensor must fit."""
BLOCK = {
    **{f"attn{i}.{name}": (4096, 4096) for i in (1, 2) for name in "qkvo"},
    "ff.in": (16384, 4096),
    "ff.out": (4096, 16384),
    **{f"audio_attn{i}.{name}": (2048, 2048) for i in (1, 2) for name in "qkvo"},
    "audio_ff.in": (8192, 2048),
    "audio_ff.out": (2048, 8192),
    **{f"cross{i}.{name}": (2048, 4096) for i in (1, 2) for name in "qkvo"},
    **{f"bias{i}": (4096,) for i in range(40)},
    **{f"table{i}": (6, 4096) for i in range(6)},
}
"""Shapes of one block, in size and number close to LTX-2.3's: 8 to 134 MB, and many of some kilobytes."""

Reader = Callable[[Path, str], Iterator[Tensor]]


def ours(threads: int, path: Path, device: str) -> Iterator[Tensor]:
    for _, tensor in stream_tensors(SafetensorsFile.open(path).tensors, torch.device(device), threads=threads):
        yield tensor


def plain_one_by_one(path: Path, device: str) -> Iterator[Tensor]:
    with safe_open(path, "pt", device=device) as file:
        for name in file.offset_keys():
            yield file.get_tensor(name)


def plain_whole(path: Path, device: str) -> Iterator[Tensor]:
    yield from load_file(path, device=device).values()


def fastsafetensors_whole(path: Path, device: str) -> Iterator[Tensor]:
    from fastsafetensors import fastsafe_open

    with fastsafe_open([str(path)], device=_indexed(device), nogds=True) as file:
        for name in list(file.keys()):
            yield file.get_tensor(name)


def fastsafetensors_batches(path: Path, device: str) -> Iterator[Tensor]:
    from fastsafetensors import ParallelLoader

    bound = {"max_batch_bytes": BATCH_BYTES, "accumulate_resident": False}
    loader = ParallelLoader(None, [str(path)], use_tqdm_on_load=False, device=_indexed(device), nogds=True, **bound)
    with closing(loader), closing(loader.iterate_weights()) as weights:
        for _, tensor in weights:
            yield tensor


def _indexed(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


def runai(limit: int | None, path: Path, device: str) -> Iterator[Tensor]:
    if limit:
        os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = str(limit)
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device=device)
        for _, tensor in streamer.get_tensors():
            yield tensor


READERS: dict[str, tuple[str, Reader]] = {
    **{f"ltx-a2v, {n} thread{'s' * (n > 1)}": ("ltx_a2v", partial(ours, n)) for n in (1, 2, 4, 8)},
    "safetensors, `safe_open`": ("safetensors", plain_one_by_one),
    "safetensors, `load_file`": ("safetensors", plain_whole),
    "fastsafetensors, whole file": ("fastsafetensors", fastsafetensors_whole),
    "fastsafetensors, 256 MiB batches": ("fastsafetensors", fastsafetensors_batches),
    "runai-model-streamer": ("runai_model_streamer", partial(runai, None)),
    "runai-model-streamer, 256 MiB": ("runai_model_streamer", partial(runai, BATCH_BYTES)),
}
"""By name in the table: the package that it needs, and how it reads."""


def write_checkpoint(path: Path, size: int) -> None:
    """Random bits as bf16, block after block, `size` bytes at least."""
    header: dict[str, object] = {}
    end = 0
    for block in count():
        if end >= size:
            break
        for name, shape in BLOCK.items():
            start, end = end, end + 2 * int(np.prod(shape))
            header[f"blocks.{block}.{name}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for start in range(0, end, 2**26):
            file.write(random.bytes(min(2**26, end - start)))
        file.flush()
        os.fsync(file.fileno())


def drop_from_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with suppress(OSError):  # the whole cache, where the user may: root on Linux
        Path("/proc/sys/vm/drop_caches").write_text("3")


def fill_page_cache(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass


def measure(name: str, path: Path, device: str) -> dict[str, float]:
    """In a process of its own: GB/s, and peak memory in bytes above what there was before."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.zeros(1, device=device)
    nbytes, before = 0, reset_peak_memory()
    started = time.perf_counter()
    for tensor in READERS[name][1](path, device):
        nbytes += tensor.nbytes
        if device == "cpu":
            tensor.view(torch.int64).sum()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if nbytes != sum(entry.nbytes for entry in SafetensorsFile.open(path).tensors.values()):
        raise RuntimeError(f"{name} gave {nbytes:,} bytes.")
    return {"gb_per_s": nbytes / seconds / 1e9, "memory": status_bytes("VmHWM") - before}


def reset_peak_memory() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def measured_apart(name: str, path: Path, device: str, cold: bool) -> dict[str, float] | None:
    (drop_from_page_cache if cold else fill_page_cache)(path)
    command = [sys.executable, __file__, "--measure", name, "--file", str(path), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(f"{name} failed:\n{done.stderr[-2000:]}\n")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def compare(path: Path, device: str, repeats: int, wanted: str) -> str:
    """The readers take turns, so that a slow minute of the machine meets all of them."""
    names = [name for name, (package, _) in READERS.items() if find_spec(package) and wanted in name]
    results: dict[tuple[str, bool], list[dict[str, float]]] = {(n, cold): [] for n in names for cold in (True, False)}
    for _ in range(repeats):
        for (name, cold), taken in results.items():
            result = measured_apart(name, path, device, cold)
            taken += [result] if result else []
            sys.stderr.write(f"{device}, {name}, {'cold' if cold else 'page cache'}: {result}\n")
    rows = [f"| to {device}: reader | cold, GB/s | page cache, GB/s | host memory, MiB |", "|---|---|---|---|"]
    for name in names:
        cold, cached = results[name, True], results[name, False]
        memory = max((result["memory"] for result in cold + cached), default=float("nan"))
        rows.append(f"| {name} | {speeds(cold)} | {speeds(cached)} | {memory / 2**20:,.0f} |")
    return "\n".join(rows)


def speeds(results: list[dict[str, float]]) -> str:
    if not results:
        return "failed"
    values = [result["gb_per_s"] for result in results]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores{gpu}, Linux {platform.release()}, {', '.join(versions())}"


def versions() -> Iterator[str]:
    for package in ("torch", "safetensors", "fastsafetensors", "runai-model-streamer"):
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=5, help="size of the file (default: %(default)s)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to write it")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts (default: %(default)s)")
    parser.add_argument("--devices", default="cpu,cuda", help="where tensors go (default: %(default)s)")
    parser.add_argument("--readers", default="", help="only those whose names contain this")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.measure, arguments.file, arguments.device)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        path = Path(folder) / "model.safetensors"
        write_checkpoint(path, int(arguments.gib * GIB))
        sys.stdout.write(f"{path.stat().st_size / 1e9:.2f} GB, {machine()}\n")
        there = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        for device in [device for device in arguments.devices.split(",") if device in there]:
            sys.stdout.write(f"\n{compare(path, device, arguments.repeats, arguments.readers)}\n")


if __name__ == "__main__":
    main()
