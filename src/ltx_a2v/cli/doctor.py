"""`ltx-a2v doctor`: what this machine can do, on one page to paste into a report; each problem with its cure."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ltx_a2v.cli.flags import OF_VIDEOS, add_model_flags, flag_name, settings_from
from ltx_a2v.cli.output import write_out
from ltx_a2v.cli.parser import Parser, versions
from ltx_a2v.errors import A2VError
from ltx_a2v.hardware.budget import gib
from ltx_a2v.hardware.driver import compute_capability, driver_version, gpu_name, memory_holders, read_memory
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.hardware.host_memory import host_memory_available, host_memory_total
from ltx_a2v.serving.work.confinement import ONE_THREAD
from ltx_a2v.settings.defaults import cache_dir
from ltx_a2v.settings.model import ModelSettings

HELP = "check this machine, its libraries and the model files; each problem with its cure"
EXAMPLES = (
    ("the machine and its libraries", "doctor"),
    ("and the model files", "doctor --model-dir ~/models/ltx"),
)
PROBLEM = 1
"""The exit code where a problem was found."""

LEAST_FREE_VRAM = 5 * 2**30
"""Bytes: about the smallest budget of the 22B model at 768x512 (`ltx-a2v plan`)."""
LEAST_FREE_RAM = 8 * 2**30
LEAST_FREE_DISK = 2**30
READ_BYTES = 512 * 2**20
READ_CHUNK = 16 * 2**20
SLOW_DISK = 500e6
"""Bytes per second: below, reading 46 GB takes more than 92 s."""
ENCODERS = ("libx264", "aac")
DECODERS = ("mp3", "aac", "flac", "opus", "vorbis", "pcm_s16le", "h264")


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    kind: Literal["ok", "note", "PROBLEM"]
    what: str
    found: str
    cure: str = ""


def add_flags(parser: Parser) -> None:
    add_model_flags(parser, without=OF_VIDEOS)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, ModelSettings)
    prepare_libraries()
    problems = 0
    for finding in _findings(settings):
        problems += finding.kind == "PROBLEM"
        write_out(_line(finding))
    write_out(f"\n{problems} problem{'s' * (problems != 1)} found.\n" if problems else "\nNo problem found.\n")
    return PROBLEM if problems else 0


def _line(finding: Finding) -> str:
    cure = f"\n{'':9}-> {finding.cure}" if finding.cure else ""
    return f"{finding.kind:8} {finding.what}: {finding.found}{cure}\n"


def _findings(settings: ModelSettings) -> Iterator[Finding]:
    """The quick ones first; a check that fails unexpectedly is a finding too."""
    checks: tuple[Callable[[ModelSettings], Iterator[Finding]], ...] = (
        _system,
        _driver,
        _host,
        _cache,
        _codecs,
        _uploads,
        _files,
        _torch,
        _model,
    )
    for check in checks:
        try:
            yield from check(settings)
        except Exception as error:  # the page is for machines on which something is broken
            name = check.__name__.removeprefix("_")
            yield Finding("PROBLEM", name, f"{type(error).__name__}: {error}", "please report it with this page")


def _system(_: ModelSettings) -> Iterator[Finding]:
    yield Finding("ok", "versions", versions())
    supported = sys.platform == "linux"
    cure = "" if supported else "Linux is what it is tested on; for another system, use a container or WSL 2"
    yield Finding("ok" if supported else "note", "system", f"{platform.platform()}, {os.cpu_count()} cores", cure)


def _driver(settings: ModelSettings) -> Iterator[Finding]:
    device = settings.device or "cuda"
    memory = read_memory(settings.device, None)
    if memory is None:
        cure = "with an NVIDIA GPU: install its driver, `nvidia-smi` must list it; in a container give it the GPU"
        yield Finding("note", "GPU", "no NVIDIA GPU that the driver reports; everything runs on the CPU", cure)
        return
    yield Finding("ok", "driver", driver_version() or "unknown")
    capability = compute_capability(device)
    shown = "unknown" if capability is None else ".".join(map(str, capability))
    yield Finding("ok", "GPU", f"{gpu_name(device)}, compute capability {shown}")
    free = f"{gib(memory.free)} free of {gib(memory.total)}"
    if memory.free >= LEAST_FREE_VRAM:
        yield Finding("ok", "VRAM", free)
    else:
        others = ", ".join(f"pid {pid}: {gib(held)}" for pid, held in memory_holders(device)) or "unknown"
        cure = f"the 22B model needs about {gib(LEAST_FREE_VRAM)}; stop what holds the memory ({others})"
        yield Finding("PROBLEM", "VRAM", free, cure)


def _host(_: ModelSettings) -> Iterator[Finding]:
    available, total = host_memory_available(), host_memory_total()
    short = available < LEAST_FREE_RAM
    cure = "close other programs: weights that do not fit the GPU wait in RAM, else each step reads the disk"
    found = f"{gib(available)} available of {gib(total)}"
    yield Finding("note" if short else "ok", "RAM", found, cure if short else "")


def _cache(_: ModelSettings) -> Iterator[Finding]:
    folder = cache_dir()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        cure = "make it writable, or choose another folder with LTX_A2V_CACHE_DIR"
        yield Finding("PROBLEM", "cache", f"{folder} cannot be written", cure)
        return
    free = shutil.disk_usage(existing).free
    short = free < LEAST_FREE_DISK
    cure = "make room there, or choose another folder with LTX_A2V_CACHE_DIR" if short else ""
    yield Finding("note" if short else "ok", "cache", f"{folder}, {gib(free)} free", cure)


def _codecs(_: ModelSettings) -> Iterator[Finding]:
    import av

    missing = [name for name in ENCODERS if not _has_codec(name, "w")]
    missing += [name for name in DECODERS if not _has_codec(name, "r")]
    if missing:
        cure = "install PyAV's own wheel: pip install --force-reinstall --only-binary av av"
        yield Finding("PROBLEM", "FFmpeg", f"PyAV {av.__version__} without {', '.join(missing)}", cure)
    else:
        codecs = f"encoders {', '.join(ENCODERS)}; decoders {', '.join(DECODERS)}"
        yield Finding("ok", "FFmpeg", f"PyAV {av.__version__}, {codecs}")


def _has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except ValueError:  # PyAV's errors of unknown codecs are among these
        return False
    return True


def _uploads(_: ModelSettings) -> Iterator[Finding]:
    """Asked in a child, which confines itself for good."""
    command = [sys.executable, "-m", "ltx_a2v.serving.work.confinement"]
    environment = {**os.environ, **ONE_THREAD}
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    if allowed := json.loads(asked.stdout):
        found = f"what opens them in `serve` cannot be kept from {', '.join(allowed)}"
        cure = "let this user make namespaces (containers: allow `unshare`), on Linux 5.13 or newer"
        yield Finding("note", "uploads", found, cure)
    else:
        yield Finding("ok", "uploads", "opened in `serve` without network, processes, or writing")


def _files(settings: ModelSettings) -> Iterator[Finding]:
    """Whether they are found, and how fast the disk gives them."""
    if settings.model_dir is None and settings.checkpoint_path is None:
        yield Finding("note", "model files", "none were given", "give --model-dir; `ltx-a2v get` downloads them")
        yield from _disk(None)
        return
    try:
        paths = settings.model_paths
    except A2VError as error:
        yield Finding("PROBLEM", "model files", error.worded(flag_name), "ltx-a2v get --dir DIR downloads them")
        return
    for _, path in paths.described():
        if path.is_file() and path.suffix == ".safetensors":
            yield Finding("ok", "file", f"{path}, {gib(path.stat().st_size)}")
    large = paths.checkpoint.is_file() and paths.checkpoint.stat().st_size >= READ_BYTES
    yield from _disk(paths.checkpoint if large else None)


def _disk(path: Path | None) -> Iterator[Finding]:
    """Of the checkpoint's disk; without one, of this folder's, with a file of its own."""
    if path is not None:
        speed, where = _read_speed(path), str(path)
    else:
        folder = Path.cwd() if os.access(Path.cwd(), os.W_OK) else Path(tempfile.gettempdir())
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            for _ in range(READ_BYTES // READ_CHUNK // 4):
                file.write(os.urandom(READ_CHUNK))
            file.flush()
            os.fsync(file.fileno())
            speed, where = _read_speed(Path(file.name)), f"a new file in {folder}"
    slow = speed < SLOW_DISK
    cure = (
        "put the model files on an NVMe disk, or have RAM for copies: then only the first run is slow" if slow else ""
    )
    yield Finding("note" if slow else "ok", "disk", f"{speed / 1e9:.2f} GB/s, reading {where}", cure)


def _read_speed(path: Path) -> float:
    """Bytes per second with one thread, after the system was asked to forget the file: an estimate."""
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(max(path.stat().st_size - READ_BYTES, 0) // 2)
        began, count = time.perf_counter(), 0
        while count < READ_BYTES and (part := file.read(READ_CHUNK)):
            count += len(part)
    return count / max(time.perf_counter() - began, 1e-9)


def _torch(settings: ModelSettings) -> Iterator[Finding]:
    import torch

    yield Finding("ok", "PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
    if read_memory(settings.device, None) is None:
        return
    if not torch.cuda.is_available():
        cure = "install a PyTorch for this driver's CUDA: https://pytorch.org/get-started/locally"
        yield Finding("PROBLEM", "CUDA", "the driver reports a GPU, but PyTorch cannot use it", cure)
        return
    from ltx_a2v import kernels

    reason = kernels.problem(torch.device(settings.device or "cuda"))
    if reason is None:
        yield Finding("ok", "kernels", "the fused kernels compile and run")
    else:
        cure = "steps take longer without them; a C compiler, Python's headers and a GPU from Ada on are needed"
        yield Finding("note", "kernels", f"not used: {reason}", cure)


def _model(settings: ModelSettings) -> Iterator[Finding]:
    """Every header, every tensor's name and shape, and whether a file ends too early; reads no weights."""
    try:
        paths = settings.model_paths
    except A2VError:
        return  # `_files` has said why
    from ltx_a2v.session import open_pipeline

    try:
        pipeline = open_pipeline(settings.model_copy(update={"device": "cpu"}))
    except A2VError as error:
        cure = "`ltx-a2v get --dir DIR --print` says which files are not whole; download those again"
        yield Finding("PROBLEM", "model", error.worded(flag_name), cure)
        return
    mode = pipeline.model.transformer_policy.mode
    stored = "bfloat16" if mode == "none" else mode
    yield Finding("ok", "model", f"{paths.checkpoint.name}: version {pipeline.model_version}, {stored}, files whole")
