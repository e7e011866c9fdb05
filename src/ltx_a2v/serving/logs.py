"""One line per event: `[timing] stage_1=12.40s` for people, one JSON object for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

LONGEST_TEXT = 1000
"""Characters of a message or a value; more are cut off."""

REPEAT_SECONDS = 60.0
MOST_KINDS = 1000

logger = logging.getLogger("ltx_a2v.serving")


def say(tag: str, text: str = "", *, level: int = logging.INFO, **fields: object) -> None:
    """`[tag] text key=value …`, numbers with two digits."""
    logger.log(level, text, extra={"tag": tag, "fields": fields})


def configure(style: Literal["text", "json"]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ltx_a2v").setLevel(logging.INFO)


class Repeats(logging.Filter):
    """Lets each kind of library message through once a minute, so that clients cannot fill the disk with them."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("ltx_a2v"):
            return True
        kind = record.name, str(record.msg).partition("\n")[0]
        now = time.monotonic()
        if kind in self._told and now - self._told[kind] < REPEAT_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        if len(self._told) >= MOST_KINDS:
            self._told.clear()
        self._told[kind] = now
        if left_out := self._left_out.pop(kind, 0):
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like this)", ()
        return True


def printable(text: str, most: int = LONGEST_TEXT) -> str:
    """One line without control characters: text of clients must not forge log lines or control a terminal."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most else f"{shown}… ({len(text)} characters)"


class _Text(logging.Formatter):
    """`[tag] message key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        words = [f"[{getattr(record, 'tag', record.levelname.lower())}]"]
        words += [printable(record.getMessage())] if record.getMessage() else []
        words += [f"{key}={printable(_short(value))}" for key, value in fields.items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """The same as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "tag", record.name),
            "message": record.getMessage()[:LONGEST_TEXT],
            **{key: value[:LONGEST_TEXT] if isinstance(value, str) else value for key, value in fields.items()},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
