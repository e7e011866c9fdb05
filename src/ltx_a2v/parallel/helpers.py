"""Starts the other processes of a clip, gives them their part of each video, and watches them.

A helper that dies, or shows no sign of life for `SILENCE_SECONDS`, ends the video with one error. All helpers are then
ended, since they share a connection, and the next video starts new ones.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from ltx_a2v.diffusion.guidance import passes_of
from ltx_a2v.errors import A2VError, InvalidRequest, WorkerFailed
from ltx_a2v.fitting import VideoShape
from ltx_a2v.hardware.host_memory import death_by_signal
from ltx_a2v.model.model import Model
from ltx_a2v.parallel.exchange import Exchange, moved
from ltx_a2v.parallel.messages import (
    End,
    Ended,
    Heartbeat,
    Job,
    Opened,
    Opening,
    Prepared,
    Release,
    Released,
    receive,
    send,
)
from ltx_a2v.parallel.sharing import PassSharing
from ltx_a2v.planning.plan import Keep, Plan
from ltx_a2v.residency.shared_memory import SharedMemory, memory_file

SILENCE_SECONDS = 60.0
"""Importing torch and compiling kernels can keep a heartbeat from its turn for seconds."""
POLL_SECONDS = 0.02
Answer = TypeVar("Answer")


class Helpers:
    """One process for each of the `devices`, which are those of the pipeline without its own."""

    def __init__(self, devices: Sequence[torch.device], style_loras: int, memory: Sequence[int] = ()) -> None:
        """`memory`: files for copies of weights that other pipelines of this machine use too, and whose owner frees
        them."""
        self.devices = tuple(devices)
        self.sharing = PassSharing(0, 1 + len(self.devices), self._announce, self._failure, self._lost)
        self._owns_memory = not memory
        files = map(os.dup, memory) if memory else (memory_file() for _ in range(1 + style_loras))
        self._memory = [fd for fd in files if fd is not None]
        self._shared: list[SharedMemory] = []
        self._processes: list[_Process] = []
        self._folder: list[Path] = []
        """Of the exchange, while there is one."""
        self._opened = False
        self.report: list[dict[str, Any]] = []
        """Of the last job: each helper's device, plan and peak."""
        weakref.finalize(self, _end_all, self._processes, self._memory, self._folder)

    def joined(self, model: Model) -> Model:
        """`model`, with its passes divided and its host copies shared."""
        for shared in self._shared:
            shared.close()
        self._shared = model.share_host_copies(self._memory)
        return replace(model, sharing=self.sharing)

    def check_passes(self, shape: VideoShape) -> None:
        """Raises `InvalidRequest` where there are more processes than passes."""
        passes, count = len(passes_of(shape.guidance)), self.sharing.count
        if count > passes:
            which = "quality fast has one pass" if shape.quality == "fast" else "its guidance asks for no more"
            reason = f"is more than the passes of this video, {passes} ({which}); use at most {passes}"
            raise InvalidRequest("gpus_per_clip", count, reason)

    @contextmanager
    def job(self, model: Model, shape: VideoShape, plan: Plan, keep: Keep, smaller: bool) -> Iterator[None]:
        """Within this context all helpers take part in the stages of `model`.

        Raises `BudgetTooSmall` where a device cannot hold its part, and `WorkerFailed`.
        """
        self.check_passes(shape)
        self.report = []
        resident = plan.placements["transformer"].resident_blocks
        try:
            self._open(model)
            self._send(Job(shape, keep, plan.budget, resident, smaller))
            self.report = [
                {"device": str(device), "plan": prepared.plan}
                for device, prepared in zip(self.devices, self._receive(Prepared), strict=True)
            ]
            yield
        finally:
            self._end_job()

    def release(self, to: Literal["host", "nothing"]) -> None:
        """Free the memory of the devices, and that of the host before the model itself frees its own."""
        if not self._opened:
            return
        try:
            self._send(Release(to))
            self._receive(Released)
        except A2VError:
            self.drop()

    def clear_memory(self) -> None:
        """Free the copies in host memory. No process may use them any more, unless other pipelines do."""
        for shared in self._shared if self._owns_memory else ():
            shared.clear()

    def drop(self) -> None:
        """End all helpers, whatever they do."""
        if self.sharing.exchange is not None:
            self.sharing.exchange.close()
            self.sharing.exchange = None
        self._opened = False
        _end_all(self._processes, [], self._folder)

    def close(self) -> None:
        self.drop()
        for shared in self._shared:
            shared.close()
        self._shared.clear()
        _end_all(self._processes, self._memory, self._folder)

    # -- one message to all ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the processes import their libraries, which takes seconds, while this one plans."""
        if not self._processes:
            self._processes += [_Process(device, self._memory) for device in self.devices]

    def _open(self, model: Model) -> None:
        """Open the model in new helpers."""
        if self._opened:
            return
        self.start()
        options = replace(model.options, read_ahead=False)
        self._folder.append(folder := Path(tempfile.mkdtemp(prefix="ltx-a2v-")))
        try:
            for rank, process in enumerate(self._processes, start=1):
                process.send(
                    Opening(
                        model.files.paths,
                        str(process.device),
                        model.dtype,
                        options,
                        rank,
                        self.sharing.count,
                        folder,
                        torch.get_num_threads(),
                    )
                )
            self._receive(Opened)
            self.sharing.exchange = Exchange(folder, 0, self.sharing.count, model.device, self._check)
        except RuntimeError as error:  # of the connection
            raise self._failure() from error
        self._opened = True

    def _announce(self, work: Any) -> None:
        cpu = torch.device("cpu")
        self._send(replace(work, start=moved(work.start, cpu), inputs=moved(work.inputs, cpu)))

    def _send(self, message: Any) -> None:
        for process in self._processes:
            process.send(message)

    def _receive(self, kind: type[Answer]) -> list[Answer]:
        """The answer of every helper. Raises the first error that is one's answer."""
        answers = [process.receive(self._check) for process in self._processes]
        for answer in answers:
            if isinstance(answer, A2VError):
                raise answer
        assert all(isinstance(answer, kind) for answer in answers), answers
        return answers

    def _end_job(self) -> None:
        if not self._opened:
            self.drop()
            return
        try:
            self._send(End())
            for entry, ended in zip(self.report, self._receive(Ended), strict=False):
                entry["peak_vram_gib"] = ended.peak_gib
        except (A2VError, AssertionError):  # the reason why the job ends was raised before
            self.drop()

    def _lost(self, _: BaseException) -> None:
        self.drop()

    def _check(self) -> None:
        for process in self._processes:
            process.check()

    def _failure(self) -> BaseException:
        """Why the exchange failed, as far as it can be known within a second."""
        for process in self._processes:
            try:
                told = process.receive(process.check, seconds=1)
            except WorkerFailed as error:
                return error
            if isinstance(told, A2VError):
                return told
        return WorkerFailed("The processes of this video lost their connection; try again.")


class _Process:
    """One helper."""

    def __init__(self, device: torch.device, memory: Sequence[int]) -> None:
        self.device = device
        ours, theirs = socket.socketpair()
        try:
            with theirs, tempfile.TemporaryFile() as file:
                file.truncate(mmap.PAGESIZE)
                self._heartbeat = Heartbeat(file.fileno())
                self._heartbeat.beat()
                inherited = (theirs.fileno(), file.fileno(), *memory)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "ltx_a2v.parallel.helper", *map(str, inherited)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches the pipeline, which then ends the helper
                )
        except BaseException:
            ours.close()
            raise
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """In a thread, since a helper that loads weights reads nothing meanwhile. Raises `WorkerFailed`."""
        sending = threading.Thread(target=self._send, args=(message,), daemon=True, name="to-helper")
        sending.start()
        while sending.is_alive():
            sending.join(POLL_SECONDS)
            self.check()

    def receive(self, check: Callable[[], None], seconds: float | None = None) -> Any:
        """The next message; None where there is none for so many seconds. Raises `WorkerFailed`, and what `check`
        raises while waiting."""
        waited = 0.0
        try:
            while not self._connection.poll(POLL_SECONDS):
                check()
                waited += POLL_SECONDS
                if seconds is not None and waited > seconds:
                    return None
            return receive(self._connection)
        except (EOFError, OSError):
            self._process.wait(timeout=SILENCE_SECONDS)
            raise self._died() from None

    def check(self) -> None:
        """Raises `WorkerFailed` where the process died or shows no sign of life."""
        if self._process.poll() is not None and not self._connection.poll():
            raise self._died()
        if self._heartbeat.seconds_ago > SILENCE_SECONDS:
            raise WorkerFailed(
                f"The process on {self.device} has not answered for {SILENCE_SECONDS:.0f} s and was ended; the video "
                "was not made. Try again."
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # the process has died: whoever waits for its answer finds out
            send(self._connection, message)

    def _died(self) -> WorkerFailed:
        status = self._process.returncode
        how = death_by_signal(-status) if status < 0 else f"ended with status {status}"
        return WorkerFailed(f"The process on {self.device} {how}; the video was not made. Try again.")


def _end_all(processes: list[_Process], memory: list[int], folders: list[Path]) -> None:
    """Must not refer to the `Helpers`, whose end calls this."""
    for process in processes:
        process.kill()
    processes.clear()
    for fd in memory:
        os.close(fd)
    memory.clear()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    folders.clear()
