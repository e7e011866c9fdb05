"""The results as Markdown: a table of speed and memory per size, and where the time goes. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ltx_a2v.bench.case import STANDARD
from ltx_a2v.bench.results import CaseResults, Spread, at, matching_resident
from ltx_a2v.errors import InvalidInput
from ltx_a2v.events import GenerationPhase

BEGIN, END = "<!-- ltx-a2v bench table -->\n", "<!-- end of the table -->\n"
"""What stands around the table in a page."""
LONG_PHASES: tuple[GenerationPhase, ...] = (
    "encode_prompt",
    "load_transformer",
    "stage_1",
    "upsample",
    "stage_2",
    "decode",
)
NOTHING = "–"
_LEGEND = """A figure is the median of its runs, with the least and the most in brackets.

- *resident*: the transformer's blocks on the device; *step 1, step 2*: the median of a run's steps after the first.
- *TFLOP/s*: of stage 1, counting useful work only; *peak*: its share of what large matrix products reach in the same
  process; *busy*: the share of a step in which a kernel runs.
- *over floor*: the step over what it cannot go below, which is the step of the same mode with everything resident, or
  the bytes it copies over the measured bus.
- *memory*: at most, in GiB: tensors / allocator / the whole GPU; *files*: whether all runs wrote the same bytes.
"""


def table(results: Sequence[CaseResults]) -> str:
    """Tables for each machine, model and start, headed by what was measured."""
    parts = [_section(group) for group in _grouped(results, _machine_and_model)]
    return "\n".join([*parts, _LEGEND])


def write_into(page: Path, text: str) -> None:
    """Between the markers of `page`. Raises `InvalidInput` where it has none or cannot be read."""
    from ltx_a2v.media.output_file import write_whole

    try:
        before, found, rest = page.read_text().partition(BEGIN)
        _, ended, after = rest.partition(END)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The page {page} cannot be read; give a Markdown file.") from error
    if not (found and ended):
        raise InvalidInput(f"The page {page} does not hold {BEGIN.strip()} and {END.strip()}; put both into it.")
    write_whole(page, (before + BEGIN + text + END + after).encode())


def _section(results: list[CaseResults]) -> str:
    lines = [_heading(next((result for result in results if result.runs), results[0])), ""]
    for of_size in _grouped(results, lambda result: (result.case.size, result.case.frames)):
        case = of_size[0].case
        lines += [f"**{case.size}, {case.frames} frames**", "", *markdown(_speed_rows(of_size)), ""]
    measured = [result for result in results if result.runs]
    if measured:
        lines += ["Seconds by phase:", "", *markdown(_phase_rows(measured)), ""]
    lines += [f"- {result.case}: {result.error['message']}" for result in results if result.error and not result.runs]
    if any(result.case.start == "warm" and result.most("prompts_encoded") for result in measured):
        lines.append("- The prompts were not in the cache: `encode_prompt` is the time of new ones.")
    if same := _same_in_all_budgets(measured):
        lines.append(same)
    return "\n".join(lines) + "\n"


def _same_in_all_budgets(results: list[CaseResults]) -> str:
    """Whether equal cases with other budgets wrote the same bytes; empty where there are none."""
    groups = _grouped(results, lambda result: (result.case.mode, result.case.size, result.case.quality))
    compared = [group for group in groups if len(group) > 1]
    different = [str(group[0].case) for group in compared if len(set().union(*(one.files for one in group))) > 1]
    if not compared:
        return ""
    if different:
        return f"- **Other bytes within other budgets**: {'; '.join(different)}."
    return "- Each mode wrote the same bytes within all of its budgets."


def _heading(result: CaseResults) -> str:
    machine, case = result.machine, result.case
    peaks = ", ".join(f"{name} {rate:.0f}" for name, rate in (machine.get("peak_tflops") or {}).items() if rate)
    bus = machine.get("bus_gb_s")
    parts = [
        f"{result.device}, {machine.get('cores')} cores, torch {machine.get('torch')}",
        f"driver {machine['driver']}" if machine.get("driver") else "",
        f"matrix products {peaks} TFLOP/s" if peaks and bus else "",
        f"bus {bus:.1f} GB/s" if bus else "",
        f"{case.model}, {case.steps} steps, {case.start} start",
        *(f"{name} {value}" for name, value in case.settings.items()),
    ]
    return f"{'; '.join(part for part in parts if part)}."


def _speed_rows(results: list[CaseResults]) -> Iterator[list[str]]:
    yield [
        *("mode", "budget", "resident", "whole, s", "step 1, s", "step 2, s", "decode, s"),
        *("TFLOP/s", "peak", "busy", "over floor", "memory", "files"),
    ]
    for result in results:
        yield [*names_of(result), *(_measured(result, results) if result.runs else ["failed"])]


def names_of(result: CaseResults) -> list[str]:
    """Mode, with the quality where it is not the standard one, and budget."""
    quality = "" if result.case.quality == STANDARD else f", {result.case.quality}"
    return [f"`{result.case.mode}`{quality}", result.case.budget]


def _measured(result: CaseResults, others: Sequence[CaseResults]) -> list[str]:
    blocks = at(result.one_run, "plan", "resident_blocks")
    share, busy = result.spread("peak_share", "stage_1"), busy_share(result)
    floor = over_floor(result, others)
    return [
        "all" if blocks is None else str(blocks),
        shown(result.spread("seconds"), 2),
        *(shown(result.spread("steps", stage, "median"), 3) for stage in ("stage_1", "stage_2")),
        shown(result.spread("phases", "decode"), 2),
        _number(result.spread("tflops", "stage_1")),
        NOTHING if share is None else f"{share.median:.0%}",
        NOTHING if busy is None else f"{busy:.0%}",
        NOTHING if floor is None else f"{floor:.2f}",
        " / ".join(_gib(result.most("memory", f"{kind}_gib")) for kind in ("allocated", "reserved", "driver")),
        _same(result),
    ]


def busy_share(result: CaseResults) -> float | None:
    """Of the median step; None where the profiler saw less than the peak allows, so not every kernel."""
    kernels, step = result.profile.get("kernel_seconds"), result.spread("steps", "stage_1", "median")
    share = result.spread("peak_share", "stage_1")
    if kernels is None or step is None or (share is not None and kernels < 0.9 * share.median * step.median):
        return None
    return float(min(kernels / step.median, 1.0))


def over_floor(result: CaseResults, others: Sequence[CaseResults]) -> float | None:
    """A streamed step over the longer of the resident one and its copies; None where it is resident itself."""
    step, copied = result.spread("steps", "stage_1", "median"), at(result.one_run, "plan", "bus_bytes_per_step")
    bus, resident = result.machine.get("bus_gb_s"), matching_resident(result, others)
    if step is None or not copied or not bus or resident is None:
        return None
    without = resident.spread("steps", "stage_1", "median")
    return None if without is None else step.median / max(without.median, copied / (bus * 1e9))


def _phase_rows(results: list[CaseResults]) -> Iterator[list[str]]:
    yield ["mode", "budget", "size", *LONG_PHASES, "other"]
    for result in results:
        yield [
            *names_of(result),
            result.case.size,
            *(NOTHING if s is None else f"{s:.2f}" for s in phase_seconds(result).values()),
        ]


def phase_seconds(result: CaseResults) -> dict[str, float | None]:
    """The median of each phase of `LONG_PHASES`, and of all else: starting, planning, reading sound and picture."""
    phases = {name: result.spread("phases", name) for name in LONG_PHASES}
    known: dict[str, float | None] = {name: spread.median if spread else None for name, spread in phases.items()}
    other = Spread.of(
        run["seconds"] - sum(run["phases"].get(name, 0.0) for name in LONG_PHASES) for run in result.runs.values()
    )
    return {**known, "other": None if other is None else max(other.median, 0.0)}


def shown(spread: Spread | None, digits: int) -> str:
    """`0.235 (0.233-0.240)`"""
    if spread is None:
        return NOTHING
    middle = f"{spread.median:.{digits}f}"
    return middle if spread.count == 1 else f"{middle} ({spread.least:.{digits}f}-{spread.most:.{digits}f})"


def _number(spread: Spread | None) -> str:
    return NOTHING if spread is None else f"{spread.median:.3g}"


def _gib(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _same(result: CaseResults) -> str:
    if len(result.runs) < 2:
        return "one run"
    return "same" if len(result.files) == 1 else "DIFFERENT"


def markdown(rows: Iterable[list[str]]) -> Iterator[str]:
    """As Markdown, the first two columns left and the others right; a short row is filled up."""
    width = 0
    for number, row in enumerate(rows):
        width = width or len(row)
        yield f"| {' | '.join([*row, *[''] * (width - len(row))])} |"
        if number == 0:
            yield "|" + "---|" * 2 + "---:|" * (width - 2)


def _machine_and_model(result: CaseResults) -> tuple[Any, ...]:
    case = result.case
    return result.device, case.model, case.start, case.steps, tuple(case.settings.items())


def _grouped(results: Iterable[CaseResults], key: Callable[[CaseResults], Any]) -> list[list[CaseResults]]:
    groups: dict[Any, list[CaseResults]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.values())
