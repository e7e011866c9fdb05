"""The process that owns the GPU: `python -m ltx_a2v.serving.work.worker FD`.

It talks JSON, one message a line, over the socket with that number; standard output is not used, so libraries may
print. The first message names the engine, a function `module:function` of `ModelSettings` that returns a `Pipeline`.
Importing the engine's module takes seconds; a worker that has done this says "standby" and holds no GPU memory. A
thread sends the heartbeat "beat" every few seconds, so that the server sees a live process whatever it computes.

    server -> worker    start {engine, settings, beat} · run {job, request, folder, keep} · load · cancel {job} · exit
                        plan {request, keep}
    worker -> server    standby {device, problem} · event {job, …} · done {job, result} · cancelled {job} · loaded
                        failed {job, tainted, … of `A2VError.as_json`} · load_failed {the same but job} · beat
                        planned {peak, problem}

A job whose weights are kept afterwards (`keep`) loads all of them first; otherwise each phase loads and frees its own.
When the server dies, the socket closes and the worker exits at once.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ltx_a2v.errors import A2VError, BudgetTooSmall, Cancelled, InvalidRequest, from_json
from ltx_a2v.events import Done, Event, GenerationResult, Previewed, WindowStarted
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.hardware.host_memory import raise_oom_score
from ltx_a2v.marks.marking import Marking
from ltx_a2v.marks.marks import Marks
from ltx_a2v.marks.settings import Made
from ltx_a2v.request import GenerationRequest
from ltx_a2v.serving import logs
from ltx_a2v.serving.http.inputs import Limits, check_inputs
from ltx_a2v.serving.jobs.folders import PARTIAL, RESULT, THUMBNAIL, VIDEO
from ltx_a2v.serving.work.failures import described
from ltx_a2v.settings.model import ModelSettings
from ltx_a2v.versions import NEWEST

if TYPE_CHECKING:
    from ltx_a2v.planning.plan import Keep, Plan

THUMBNAIL_SIZE = (512, 512)

OOM_SCORE = 500
"""Of 1000: when the host runs out of memory, the kernel ends the worker and not the server."""

Message = dict[str, Any]


class Pipeline(Protocol):
    """The part of `A2VPipeline` that the worker uses."""

    keep: Keep

    @property
    def device(self) -> object: ...
    def plan(self, request: GenerationRequest) -> object: ...
    def plan_for(self, request: GenerationRequest) -> Plan: ...
    def prepare(self, request: GenerationRequest | None = None) -> object: ...
    def generate(self, request: GenerationRequest) -> Generator[Event]: ...


class Channel:
    """JSON lines over a socket; a thread reads, so that a cancel is seen while the main thread computes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._cancelled: set[str] = set()
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="reader").start()

    def send(self, say: str, **fields: object) -> None:
        line = json.dumps({"say": say, **fields}).encode() + b"\n"
        with self._sending:
            self._connection.sendall(line)

    def beat(self, seconds: float) -> None:
        """Send a heartbeat every so many seconds from now on."""
        threading.Thread(target=self._beat, args=(seconds,), daemon=True, name="heartbeat").start()

    def raise_if_cancelled(self, job: str) -> None:
        if job in self._cancelled:
            raise Cancelled("The job was cancelled.")

    def _beat(self, seconds: float) -> None:
        with contextlib.suppress(OSError):  # the server is gone, which the reader answers
            while True:
                self.send("beat")
                time.sleep(seconds)

    def _read(self) -> None:
        try:
            for line in self._connection.makefile("rb"):
                message = json.loads(line)
                if message["do"] == "cancel":
                    self._cancelled.add(message["job"])
                else:
                    self.inbox.put(message)
        finally:
            os._exit(0)  # the server is gone


class Worker:
    """Answers the server's messages one after the other with one pipeline."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._open: Callable[[], Pipeline]
        self._limits: Limits
        self._pipeline: Pipeline | None = None
        self._loaded = False

    def serve(self) -> None:
        start = self._channel.inbox.get()
        self._channel.beat(start["beat"])
        module, _, function = start["engine"].partition(":")
        engine = importlib.import_module(module)
        settings = ModelSettings(**start["settings"])
        self._marking, self._previews = settings.marking, bool(start["settings"]["previews"])
        self._open = lambda: cast(Pipeline, getattr(engine, function)(settings))
        self._limits = Limits(start["settings"]["max_image_pixels"], start["settings"]["max_audio_seconds"])
        problem = self._problem()
        self._channel.send("standby", problem=problem, device=str(self._pipeline.device) if self._pipeline else None)
        while (message := self._channel.inbox.get())["do"] != "exit":
            if message["do"] == "load":
                self._answer_load()
            elif message["do"] == "plan":
                self._answer_plan(message["request"], message["keep"])
            else:
                folder, windows = Path(message["folder"]), Path(message["windows"])
                self._answer_run(message["job"], message["request"], folder, windows, message["keep"])

    def _problem(self) -> str | None:
        """Why the model cannot be opened (this reads only headers), or None; a job would fail with the same error."""
        try:
            self._opened()
        except Exception as error:
            return str(from_json(described(error)))
        return None

    def _answer_load(self) -> None:
        try:
            if not self._loaded:
                self._load(None, job=None)
        except Exception as error:
            self._channel.send("load_failed", **described(error))
        else:
            self._channel.send("loaded", device_bytes=_device_bytes())

    def _answer_plan(self, fields: dict[str, Any], keep: bool) -> None:
        """`peak` is None where nothing is known, `problem` says why a request does not fit now."""
        peak, problem = None, None
        try:
            peak = self._peak_of(fields, keep)
        except BudgetTooSmall as error:
            problem = str(error)
        except Exception as error:  # a job with these fields says it better
            logs.say("plan", f"{type(error).__name__}: {error}", level=30)
        self._channel.send("planned", peak=peak, problem=problem)

    def _peak_of(self, fields: dict[str, Any], keep: bool) -> int | None:
        """Bytes. None on a GPU that this process does not use yet: planning asks it, which takes memory on it."""
        pipeline = self._opened()
        if str(pipeline.device).startswith("cuda") and not _uses_cuda():
            return None
        pipeline.keep = "device" if keep else "nothing"
        return pipeline.plan_for(GenerationRequest(**fields, audio=Path("-"))).peak

    def _answer_run(self, job: str, fields: dict[str, Any], folder: Path, windows: Path, keep: bool) -> None:
        try:
            result = self._run(job, fields, folder, windows, keep)
        except Cancelled:
            self._channel.send("cancelled", job=job)
        except Exception as error:
            self._channel.send("failed", job=job, **described(error))
        else:
            self._channel.send("done", job=job, result=result, device_bytes=_device_bytes())

    def _run(self, job: str, fields: dict[str, Any], folder: Path, windows: Path, keep: bool) -> dict[str, Any]:
        self._channel.raise_if_cancelled(job)
        began = time.monotonic()
        request = GenerationRequest(**fields, output_path=folder / VIDEO, work_dir=windows, previews=self._previews)
        check_inputs(request, self._limits, lambda: self._channel.raise_if_cancelled(job))
        if keep or self._loaded:
            load_seconds = self._load(request, job)
        else:
            self._opened().keep, load_seconds = "nothing", {}
        report = self._generate_anyway(job, request).as_json()
        report["elapsed_seconds"] = round(time.monotonic() - began, 3)  # with the load, as the client waits for it
        report["phases"] = {**load_seconds, **report["phases"]}
        write_thumbnail(request.output_path, folder / THUMBNAIL)
        (folder / RESULT).write_text(json.dumps(report))
        self._channel.raise_if_cancelled(job)
        return report

    def _load(self, request: GenerationRequest | None, job: str | None) -> dict[str, float]:
        """Seconds by phase: none where the model was loaded already."""
        pipeline = self._opened()
        pipeline.keep = "device"
        if request is not None:
            pipeline.plan(request)
        if self._loaded:
            pipeline.prepare(request)
            return {}
        began = time.monotonic()
        self._channel.send("event", job=job, event="PhaseStarted", phase="load", steps=0)
        pipeline.prepare(request)
        self._loaded = True
        seconds = time.monotonic() - began
        held = _device_bytes() / 2**30
        memory = {"allocated_gib": held, "reserved_gib": held}
        self._channel.send("event", job=job, event="PhaseFinished", phase="load", seconds=seconds, **memory)
        return {"load": seconds}

    def _opened(self) -> Pipeline:
        self._pipeline = self._pipeline or self._open()
        return self._pipeline

    def _generate_anyway(self, job: str, request: GenerationRequest) -> GenerationResult:
        """From the first window on, where those of an earlier attempt are another model's."""
        try:
            return self._generate(job, request)
        except InvalidRequest as error:
            if error.field != "work_dir" or request.work_dir is None:
                raise
        shutil.rmtree(request.work_dir, ignore_errors=True)
        return self._generate(job, request)

    def _generate(self, job: str, request: GenerationRequest) -> GenerationResult:
        events = self._opened().generate(request)
        with closing(events):  # closing stops the work and removes what was half written
            for event in events:
                self._channel.raise_if_cancelled(job)
                if isinstance(event, Done):
                    return event.result
                if isinstance(event, WindowStarted) and event.window > 1:
                    offer_partial(request, event.window - 1, self._marking)
                self._channel.send("event", job=job, event=type(event).__name__, **_as_json(event))
        raise RuntimeError("The pipeline ended without a result.")


def _as_json(event: Event) -> dict[str, Any]:
    """Pictures in base64."""
    fields = asdict(event)
    return fields | {"jpeg": base64.b64encode(event.jpeg).decode()} if isinstance(event, Previewed) else fields


def offer_partial(request: GenerationRequest, finished: int, marking: Marking) -> None:
    """The finished windows as one marked video, to be watched while the others are made."""
    from ltx_a2v.work_dir import join_finished

    assert request.work_dir is not None
    try:
        marks = Marks.begin(marking, request, Made(NEWEST.name))
        join_finished(request, request.work_dir, finished, request.work_dir / PARTIAL, marks)
    except A2VError as error:
        logs.say("partial", str(error), level=30)


def write_thumbnail(video: Path, thumbnail: Path) -> None:
    """The first frame as a JPEG."""
    import av

    with av.open(str(video)) as container:
        picture = next(container.decode(video=0)).to_image()  # type: ignore[no-untyped-call]
    picture.thumbnail(THUMBNAIL_SIZE)
    picture.save(thumbnail, "JPEG", quality=85)


def _device_bytes() -> int:
    """Bytes of device memory reserved by torch; 0 without torch or before CUDA is initialised."""
    return int(sys.modules["torch"].cuda.memory_reserved()) if _uses_cuda() else 0


def _uses_cuda() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _offer_to_the_oom_killer() -> None:
    with contextlib.suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole process group; only the server handles it
    _offer_to_the_oom_killer()
    logs.configure(cast(Any, os.environ.get("LTX_A2V_LOG_FORMAT", "text")))
    raise_oom_score()
    prepare_libraries()
    os.dup2(2, 1)  # what libraries print goes to the log
    connection = socket.socket(fileno=int(sys.argv[1]))
    Worker(Channel(connection)).serve()
    sys.stderr.flush()
    os._exit(0)  # no destructors: the driver frees the device's memory with the process


if __name__ == "__main__":
    main()
