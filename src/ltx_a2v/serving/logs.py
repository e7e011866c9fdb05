"""One line per event: `[timing] stage_1=12.40s` for people, one JSON object for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

logger = logging.getLogger("ltx_a2v.serving")


def say(tag: str, text: str = "", *, level: int = logging.INFO, **fields: object) -> None:
    """`[tag] text key=value …`, numbers with two digits."""
    logger.log(level, text, extra={"tag": tag, "fields": fields})


def configure(style: Literal["text", "json"]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ltx_a2v").setLevel(logging.INFO)


def _one_line(text: str) -> str:
    """A name or a prompt from outside must not forge a line."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        words = [f"[{getattr(record, 'tag', record.levelname.lower())}]"]
        words += [_one_line(record.getMessage())] if record.getMessage() else []
        words += [f"{key}={_one_line(_short(value))}" for key, value in fields.items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "tag", record.name),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
