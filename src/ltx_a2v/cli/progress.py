"""Progress on stderr: phase, step i of n, time left. Bars on a terminal, few lines in a log."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from types import TracebackType
from typing import Protocol, TypeVar, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ltx_a2v.events import (
    PHASE_TITLES,
    Done,
    Event,
    GenerationResult,
    Notice,
    PhaseFinished,
    PhaseStarted,
    Planned,
    StepFinished,
    WindowStarted,
)

Result = TypeVar("Result")
SECONDS_BETWEEN_LINES = 10.0
"""In a log."""


class Display(Protocol):
    """Shows events while it is open."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event) -> None: ...


def progress_on_stderr() -> Display:
    console = Console(stderr=True)
    return _Bars(console) if console.is_terminal else _Lines(console)


def watch(events: Generator[Event]) -> GenerationResult:
    """Show the events on stderr until the last one."""
    with closing(events) as stream, progress_on_stderr() as display:
        for event in stream:
            if isinstance(event, Done):
                return event.result
            display.show(event)
    raise AssertionError("a generation ends with Done")


def show(work: Generator[Event, None, Result]) -> Result:
    """Show the events of `work` on stderr; what it returns."""
    with closing(work) as stream, progress_on_stderr() as display:
        while True:
            try:
                display.show(next(stream))
            except StopIteration as end:
                return cast("Result", end.value)


class _Windows:
    """How long a long video still takes, from the windows that were made so far."""

    def __init__(self) -> None:
        self._made = 0
        self._began: float | None = None

    def line(self, event: WindowStarted) -> str:
        name = f"window {event.window}/{event.windows}"
        if event.is_made:
            return f"{name}: made already"
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        left = (now - self._began) / self._made * (event.windows - event.window + 1) if self._made else None
        self._made += 1
        return name if left is None else f"{name}, about {_in_words(left)} left"


def _in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Bars:
    """A bar per phase, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._windows = _Windows()

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        match event:
            case WindowStarted():
                self._forget_bars()
                self._progress.console.print(self._windows.line(event), markup=False)
            case PhaseStarted(phase, steps):
                self._tasks[phase] = self._progress.add_task(PHASE_TITLES[phase], total=steps or 1)
            case StepFinished(phase, step):
                self._progress.update(self._tasks[phase], completed=step)
            case PhaseFinished(phase):
                task = self._progress.tasks[self._tasks[phase]]
                self._progress.update(task.id, completed=task.total)
            case Planned(message):
                self._progress.console.print(f"plan: {message}", markup=False)
            case Notice(message):
                self._progress.console.print(f"note: {message}", markup=False)
            case _:
                pass

    def _forget_bars(self) -> None:
        """Of the window before: else a long video would fill the terminal."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


class _Lines:
    """In a log: a line for each phase when it ends, and while one is long, now and then how far it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = 0.0
        self._windows = _Windows()
        self._said = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: Event) -> None:
        match event:
            case WindowStarted():
                self._say(self._windows.line(event))
            case PhaseStarted():
                self._started = self._said = time.monotonic()
            case StepFinished(phase, step, steps) if step < steps:
                self._step(PHASE_TITLES[phase], step, steps)
            case PhaseFinished(phase, seconds):
                self._say(f"{PHASE_TITLES[phase]}: {seconds:.2f} s")
            case Planned(message):
                self._say(f"plan: {message}")
            case Notice(message):
                self._say(f"note: {message}")
            case _:
                pass

    def _step(self, title: str, step: int, steps: int) -> None:
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        left = (now - self._started) / step * (steps - step)
        self._say(f"{title}: {step} of {steps}, about {left:.0f} s left")

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)
