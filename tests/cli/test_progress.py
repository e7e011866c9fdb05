"""Progress where stderr is no terminal: few lines, in words that people read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ltx_a2v.cli import progress
from ltx_a2v.events import Event, PhaseFinished, PhaseStarted, StepFinished


def events(steps: int, seconds: float, clock: list[float]) -> Iterator[Event]:
    """One phase of so many steps, which take so many seconds each by the clock."""
    yield PhaseStarted("stage_1", steps)
    for step in range(1, steps + 1):
        clock[0] += seconds
        yield StepFinished("stage_1", step, steps)
    yield PhaseFinished("stage_1", steps * seconds, 0.0, 0.0)


@pytest.mark.parametrize(("seconds", "lines"), [(0.2, 0), (1.0, 2), (25.0, 29)])
def test_a_log_gets_a_line_per_phase_and_one_each_ten_seconds(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress_on_stderr() as display:
        for event in events(30, seconds, clock):
            display.show(event)
    *steps, last = capsys.readouterr().err.splitlines()
    assert last == f"stage 1, half size: {30 * seconds:.2f} s"
    assert len(steps) == lines
    if lines:
        assert steps[0] == ("stage 1, half size: 10 of 30, about 20 s left" if seconds == 1 else steps[0])
