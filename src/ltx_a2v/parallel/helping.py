"""What a helper does with the messages it receives, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch

from ltx_a2v.errors import A2VError, BudgetTooSmall, WorkerFailed
from ltx_a2v.hardware.budget import Budget, capped
from ltx_a2v.hardware.streams import on_device
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.model import Model
from ltx_a2v.model.placed import PlacedModel
from ltx_a2v.parallel.exchange import Exchange, Standing, moved
from ltx_a2v.parallel.messages import End, Ended, Job, Opened, Opening, Prepared, Release, Released, receive, send
from ltx_a2v.parallel.sharing import PassSharing, Stopped
from ltx_a2v.pipeline import StageWork, run_steps
from ltx_a2v.planning.auto_mode import plan_in_one_line
from ltx_a2v.planning.plan import Plan
from ltx_a2v.planning.planner import Planner, smaller_budget
from ltx_a2v.residency.ledger import Ledger

GIB = 2**30


def serve(connection: Connection, memory: Sequence[int]) -> None:
    """Until the process of the pipeline ends."""
    opening = None
    try:
        opening = receive(connection)
        with _reporting(connection, opening.device), torch.inference_mode(), on_device(torch.device(opening.device)):
            helper = Helper(opening, connection, memory)
            while True:
                with _reporting(connection, opening.device):
                    helper.answer(receive(connection))
    except (EOFError, OSError):
        leave(opening)


def leave(opening: Opening | None) -> NoReturn:
    """Without the clean-up of libraries, which would wait for the other processes."""
    if opening is not None:
        shutil.rmtree(opening.folder, ignore_errors=True)  # in case that the pipeline's process was killed
    os._exit(0)


@contextmanager
def _reporting(connection: Connection, device: str) -> Iterator[None]:
    """An error becomes a message."""
    try:
        yield
    except (EOFError, OSError):
        raise
    except BudgetTooSmall as error:
        send(connection, BudgetTooSmall(f"On {device}: {error.template}"))
    except A2VError as error:
        send(connection, error)
    except Exception as error:
        send(connection, _failed(device, error))


def _failed(device: str, error: BaseException) -> WorkerFailed:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return WorkerFailed(f"The process on {device} failed: {reason}.")


class Helper:
    """One opened model, and the job at hand."""

    def __init__(self, opening: Opening, connection: Connection, memory: Sequence[int]) -> None:
        if opening.device == "cpu":
            torch.set_num_threads(opening.threads)
        self._opening = opening
        self._connection = connection
        self._device = torch.device(opening.device)
        self._sharing = PassSharing(opening.rank, opening.count, lambda work: None, Stopped, self._lost)  # noqa: ARG005
        model = Model.open(ModelFiles.open(opening.paths), self._device, opening.dtype, opening.options)
        self._model = replace(model, sharing=self._sharing)
        self._streamed = ("transformer", *model.style_loras)
        self._model.share_host_copies(memory)
        self._planner = Planner(self._model)
        self._plan: Plan | None = None
        self._job: _LoadedJob | None = None
        send(connection, Opened())
        self._exchange = Exchange(opening.folder, opening.rank, opening.count, self._device, lambda: None)
        self._sharing.exchange = self._exchange

    def _lost(self, error: BaseException) -> NoReturn:
        """The error of a GPU is told; where the other process has ended, nobody listens."""
        with suppress(OSError):
            send(self._connection, _failed(str(self._device), error.__cause__ or error))
        leave(self._opening)

    def answer(self, message: Any) -> None:
        if isinstance(message, Job):
            self._begin(message)
        elif isinstance(message, StageWork):
            self._run(message)
        elif isinstance(message, End):
            send(self._connection, Ended(self._end()))
        elif isinstance(message, Release):
            self._end()
            self._model.release(message.to)
            send(self._connection, Released())

    def _begin(self, job: Job) -> None:
        self._end()
        budget = self._budget(job)
        if job.smaller and self._plan is not None:
            budget = smaller_budget(self._plan, budget)
        plan = self._planner.plan(job.shape, budget, job.keep, networks=self._streamed)
        self._plan = _with_the_same_copies(plan, job.resident_blocks)
        send(self._connection, Prepared(plan_in_one_line(self._plan, self._model, None)))
        self._job = _LoadedJob(self._model, job, self._plan)

    def _budget(self, job: Job) -> int | None:
        given = self._model.options.budget
        if self._device.type != "cuda" or not (given.text == "auto" or given.text.endswith("%")):
            return job.budget
        headroom = given.headroom * (2 if job.smaller else 1)
        return Budget(given.text, headroom).resolve(self._device, torch.cuda.memory_reserved(self._device))

    def _run(self, work: StageWork) -> None:
        job = self._job
        if job is None or job.standing is not Standing.READY:
            self._exchange.standings(job.standing if job else Standing.FAILED)
            self._end()
            if job is not None and job.error is not None:
                raise job.error
            return
        try:
            job.run(work)
        except (Stopped, torch.OutOfMemoryError):  # which all processes know
            self._end()
        except Exception:
            self._end()
            raise

    def _end(self) -> float:
        """Peak of device memory in GiB."""
        job, self._job = self._job, None
        if job is None:
            return 0.0
        job.close()
        return job.peak_gib


class _LoadedJob:
    """A job with its transformer on the device. Where that failed, the others learn it at the first exchange."""

    def __init__(self, model: Model, job: Job, plan: Plan) -> None:
        self._device = model.device
        self._stack = ExitStack()
        self._ledger = Ledger(plan.budget) if model.device.type == "cpu" and plan.budget is not None else None
        self._model: PlacedModel = model.within(plan.placements, graphs=plan.graphs)
        self._model.computes(job.shape.computed)
        self.standing = Standing.READY
        self.error: Exception | None = None
        try:
            self._stack.enter_context(capped(model.device, plan.budget))
            if model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(model.device)
            with self._counted():
                self._transformer = self._stack.enter_context(self._model.transformer())
        except torch.OutOfMemoryError:
            self.standing = Standing.OUT_OF_MEMORY
        except Exception as error:
            self.standing, self.error = Standing.FAILED, error.with_traceback(None)

    def run(self, work: StageWork) -> None:
        on_device = StageWork(work.stage, moved(work.start, self._device), moved(work.inputs, self._device))
        with self._counted():
            for _ in run_steps(self._model, self._transformer, on_device):
                pass

    def close(self) -> None:
        self._stack.close()

    @property
    def peak_gib(self) -> float:
        if self._ledger is not None:
            return round(self._ledger.peak / GIB, 6)
        if self._device.type != "cuda":
            return 0.0
        return round(torch.cuda.max_memory_allocated(self._device) / GIB, 3)

    def _counted(self) -> AbstractContextManager[object]:
        return nullcontext() if self._ledger is None else self._ledger


def _with_the_same_copies(plan: Plan, resident_blocks: int | None) -> Plan:
    """With no more blocks resident than rank 0 has, where both stream: so they stream, and copy, the same blocks."""
    placement = plan.placements["transformer"]
    if placement.resident_blocks is None or resident_blocks is None:
        return plan
    fewer = replace(placement, resident_blocks=min(placement.resident_blocks, resident_blocks))
    return replace(plan, placements={**plan.placements, "transformer": fewer})
