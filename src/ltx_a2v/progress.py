"""A bar for each phase with steps, in a terminal or a notebook, for Python programs; the command line has its own."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from ltx_a2v.events import (
    PHASE_TITLES,
    Event,
    Notice,
    PhaseFinished,
    PhaseStarted,
    Planned,
    StepFinished,
    WindowStarted,
)


def with_bars(events: Generator[Event]) -> Iterator[Event]:
    """The same events, shown on stderr while they pass; in a notebook with ipywidgets as widgets."""
    tqdm = _tqdm()
    bar: Any = None
    with closing(events):
        try:
            for event in events:
                match event:
                    case PhaseStarted(phase, steps):
                        bar = tqdm(total=steps or 1, desc=PHASE_TITLES[phase], unit="step", leave=steps > 0)
                    case StepFinished():
                        bar.update()
                    case PhaseFinished():
                        bar.update(bar.total - bar.n)
                        bar.close()
                    case WindowStarted(window, windows):
                        tqdm.write(f"window {window}/{windows}")
                    case Planned(message):
                        tqdm.write(f"plan: {message}")
                    case Notice(message):
                        tqdm.write(f"note: {message}")
                yield event
        finally:
            if bar is not None:
                bar.close()


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets gets the bar as text, and advice about widgets
        from tqdm.auto import tqdm
    return tqdm
