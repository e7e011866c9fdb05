"""`ltx-a2v inspect VIDEO`: what made it, when, with which settings, and whether it was changed since."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_a2v.cli.output import write_out
from ltx_a2v.cli.parser import Parser

if TYPE_CHECKING:
    from ltx_a2v.marks.inspection import Inspection

HELP = "what a video says of itself: what made it, with which settings, and whether it was changed"
EXAMPLES = (
    ("for people", "inspect video.mp4"),
    ("for programs; the exit code is 1 where the file was changed", "inspect video.mp4 --json"),
)


def add_flags(parser: Parser) -> None:
    parser.usage = "ltx-a2v inspect VIDEO [flags]"
    parser.everyday.add_argument("video", type=Path, metavar="VIDEO", help="any video")
    parser.everyday.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.marks.inspection import inspect_video

    found = inspect_video(arguments.video)
    if arguments.json:
        write_out(json.dumps({"video": str(arguments.video), **found.as_json()}) + "\n")
    else:
        write_out("".join(f"{line}\n" for line in as_lines(found)))
    return 1 if found.state == "changed" else 0


def as_lines(found: Inspection) -> Iterator[str]:
    made, said = found.statement, found.manifest
    yield _STATES[found.state].format(problem=found.problem or said.problem)
    if said.signer or said.issuer:
        whose = "this installation" if said.is_known else "not known here, so the name proves nothing"
        ending = f": {whose}" * (found.state == "intact")
        yield f"signed by: {said.signer or '?'} ({said.issuer or '?'}){ending}"
    if made is None:
        if said.generator:
            yield f"made with: {said.generator}{', by AI' * found.is_ai}"
        return
    how = "a part is made by AI" if "retake" in found.settings else "made by AI"
    yield f"{how}: ltx-a2v {made.version}, {made.model or 'an unknown model'}; provider: {made.provider}"
    yield f"time: {made.time or 'left out (reproducible)'}; id: {made.id}"
    if not found.settings:
        yield "settings: none are left in the file"
        return
    for title, values in _parts(found.settings):
        yield f"{title}: {', '.join(f'{name} {_short(value)}' for name, value in values.items())}"
    for each in _list(found.settings.get("inputs")):
        yield f"{each.get('kind')}: sha256 {each.get('sha256')}"


_STATES = {
    "intact": "The file is as it was when it was signed.",
    "changed": "The file was changed or damaged after it was made: {problem}.",
    "unsigned": "The file is marked, but not signed: whether it was changed cannot be told.",
    "unmarked": "The file has no marks. That does not say that it was not made by AI.",
    "unknown": "Whether the file was changed cannot be checked here: {problem}.",
}


def _parts(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("retake", "video", "request", "model"):
        values = settings.get(name)
        if isinstance(values, dict) and values:
            nested = values.get("guidance") if isinstance(values.get("guidance"), dict) else {}
            flat = {key: value for key, value in values.items() if key != "guidance"}
            yield name, {key: value for key, value in {**flat, **(nested or {})}.items() if value is not None}


def _list(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 80 else f"{printable[:77]}..."
