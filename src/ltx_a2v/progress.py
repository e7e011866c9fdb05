"""Progress bars on stderr: phase, step i of n, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn

from ltx_a2v.events import Event, Notice, PhaseFinished, PhaseStarted, StepFinished


class ProgressBars:
    """One line per phase. Where stderr is no terminal, rich prints the finished lines only."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            EtaColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        match event:
            case PhaseStarted(phase, steps):
                self._tasks[phase] = self._progress.add_task(phase, total=steps or 1)
            case StepFinished(phase, step, _):
                self._progress.update(self._tasks[phase], completed=step)
            case PhaseFinished(phase, _):
                task = self._progress.tasks[self._tasks[phase]]
                self._progress.update(task.id, completed=task.total)
            case Notice(message):
                self._progress.console.print(f"note: {message}")
            case _:
                pass
