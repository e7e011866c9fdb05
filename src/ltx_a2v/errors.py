"""Every error that a user can meet, as one tree.

    A2VError
    ├── InvalidInput            what was given cannot be used
    │   ├── InvalidRequest      a value of the request or a setting
    │   ├── InvalidAudio        the audio file
    │   ├── InvalidImage        the image file
    │   ├── InvalidVideo        the video file
    │   ├── InvalidModel        a model file, or the files do not belong together
    │   ├── InvalidMode         a quantization mode that does not exist, or not on this device
    │   │   └── MissingExtra    an optional dependency that is not installed
    │   ├── InvalidOutput       the place to write to
    │   └── TooLarge            an upload or a value beyond the server's limits
    ├── BudgetTooSmall          the VRAM budget (or host memory) cannot hold the smallest plan
    ├── OutOfMemory             the device, or the host, ran out of memory while working
    ├── NotFinite               a network returned NaN or Inf
    ├── Unavailable             the server cannot take the work now
    │   ├── QueueFull           too many jobs wait already
    │   └── StorageFailed       the server's disk is full, or its folders cannot be written to
    ├── NotFound                no such job, file or route
    │   └── Expired             the job's files were removed after their time
    ├── Conflict                the job is in a state that does not allow this
    ├── Unauthorized            the API key is missing or wrong
    │   └── Forbidden           a place, host or origin that is not let in
    ├── Cancelled               the user stopped the work
    └── WorkerFailed            the process that owns the GPU died

A message is one sentence or two: what was wrong, what was given, what to do.

One value has several names: `num_frames` in Python, `--num-frames` on the command line, `seconds` in a body. So a
message contains `named("num_frames")` instead of a name, and the command line and HTTP replace it:

    error = BudgetTooSmall(f"5 GiB are too little; reduce {named('width')}.")
    str(error)                    "5 GiB are too little; reduce width."
    error.worded(flag_name)       "5 GiB are too little; reduce --width."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Final

NOT_GIVEN: Final = object()
"""Value of an `InvalidRequest` about a field that was left out, or about the request as a whole."""


def named(field: str) -> str:
    """A mark for the name of a request's field or of a setting, to put into a message.

    `field` is its name in Python, with a point where it is nested: `width`, `guidance.cfg`, `vram_budget`.
    """
    return f"⟨{field}⟩"


SMALLER_REQUEST: Final = f"reduce {named('width')}, {named('height')} or {named('num_frames')}"
"""What to do where memory is too small."""


def worded(text: str, name: Callable[[str], str]) -> str:
    """`text` with each mark of `named` replaced by what `name` calls the field."""
    return re.sub("⟨([a-z0-9_.]+)⟩", lambda mark: name(mark[1]), text)


def _python_name(field: str) -> str:
    return field


class A2VError(Exception):
    """Base of all errors, with the default HTTP status."""

    code = "internal_error"
    exit_code = 1
    http_status = 500
    field = ""
    """The field that the error is about, by the name of whoever raised it; empty where it is about none."""

    def __init__(self, template: str = "") -> None:
        """`template` is the message, with the marks of `named` in it."""
        super().__init__(template)
        self.template = template

    def __str__(self) -> str:
        return worded(self.template, _python_name)

    def worded(self, name: Callable[[str], str]) -> str:
        """The message, with field names given by `name`."""
        return worded(self.template, name)

    def as_json(self) -> dict[str, Any]:
        """What another process needs to raise it again with `from_json`."""
        return {
            "kind": type(self).__name__,
            "code": self.code,
            "message": self.template,
            "status": self.http_status,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return from_json, (self.as_json(),)


class InvalidInput(A2VError):
    """What was given cannot be used."""

    code = "invalid_input"
    exit_code = 2
    http_status = 400


class InvalidRequest(InvalidInput):
    """A value of a request, or a setting, that cannot be used.

    `field` is its name in Python (`num_frames`, `guidance.cfg`, `vram_budget`), empty for the request as a whole.
    `reason` is what follows field and value: `must be 8k+1; use 97 or 105`.
    """

    code = "invalid_request"
    http_status = 422

    def __init__(self, field: str = "", value: object = NOT_GIVEN, reason: str = "") -> None:
        shown = "" if value is NOT_GIVEN else shown_value(value)
        super().__init__(" ".join(part for part in (field and named(field), shown, _sentence(reason)) if part))
        self.field = field
        self.value = value
        self.reason = reason

    def as_json(self) -> dict[str, Any]:
        value = {} if self.value is NOT_GIVEN else {"value": _plain(self.value)}
        return {**super().as_json(), "field": self.field, "reason": self.reason, **value}


class InvalidAudio(InvalidInput):
    """The audio file cannot be used."""

    code = "invalid_audio"
    http_status = 422


class InvalidImage(InvalidInput):
    """The image file cannot be used."""

    code = "invalid_image"
    http_status = 422


class InvalidVideo(InvalidInput):
    """The video file cannot be used."""

    code = "invalid_video"
    http_status = 422


class InvalidModel(InvalidInput):
    """A model file cannot be used, or the files do not belong together."""

    code = "invalid_model"
    http_status = 500


class InvalidMode(InvalidInput):
    """A quantization mode that does not exist, or not on this device."""

    code = "invalid_mode"


class MissingExtra(InvalidMode):
    """An optional dependency is not installed; `extra` is its name in pyproject."""

    code = "missing_extra"
    http_status = 500

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra {extra!r}, which is not installed: `make extras EXTRAS={extra}` in a checkout, or "
            f"pip install 'WHEEL[{extra}]'."
        )


class InvalidOutput(InvalidInput):
    """The place to write to cannot be used."""

    code = "invalid_output"


class TooLarge(InvalidInput):
    """An upload or a value is beyond the server's limits; `code` names which one.

    As `image_too_large`, `audio_too_large`, `body_too_large`.
    """

    code = "too_large"
    http_status = 413

    def __init__(self, message: str, code: str = code) -> None:
        super().__init__(message)
        self.code = code


class BudgetTooSmall(A2VError):
    """The VRAM budget, or the host memory, cannot hold the smallest plan."""

    code = "budget_too_small"
    exit_code = 2
    http_status = 503


class OutOfMemory(A2VError):
    """The device, or the host, ran out of memory while working."""

    code = "out_of_memory"
    http_status = 503


class NotFinite(A2VError):
    """A network returned NaN or Inf."""

    code = "not_finite"


class Unavailable(A2VError):
    """The server cannot take the work now."""

    code = "unavailable"
    http_status = 503


class QueueFull(Unavailable):
    """Too many jobs wait already."""

    code = "queue_full"
    http_status = 429


class StorageFailed(Unavailable):
    """`code` says how: `storage_full` (507) or `storage_unwritable` (503)."""

    code = "storage_unwritable"


class NotFound(A2VError):
    """No such job, file or route."""

    code = "not_found"
    exit_code = 2
    http_status = 404


class Expired(NotFound):
    """The job's files were removed after their time."""

    code = "expired"
    http_status = 410


class Conflict(A2VError):
    """The job is in a state that does not allow this."""

    code = "conflict"
    http_status = 409


class Unauthorized(A2VError):
    """The API key is missing or wrong."""

    code = "unauthorized"
    exit_code = 2
    http_status = 401


class Forbidden(Unauthorized):
    """A place, host or origin that is not let in."""

    code = "forbidden"
    http_status = 403


class Cancelled(A2VError):
    """The user stopped the work."""

    code = "cancelled"
    exit_code = 130
    http_status = 409


class WorkerFailed(A2VError):
    """The process that owns the GPU died."""

    code = "worker_failed"


def from_json(described: dict[str, Any]) -> A2VError:
    """The error that `A2VError.as_json` described."""
    kind = _kinds(A2VError).get(described.get("kind", ""), A2VError)
    error = kind.__new__(kind)
    A2VError.__init__(error, described["message"])
    error.code, error.http_status = described["code"], described["status"]
    if isinstance(error, InvalidRequest):
        error.field, error.reason = described["field"], described["reason"]
        error.value = described.get("value", NOT_GIVEN)
    return error


def shown_value(value: object) -> str:
    """A value as messages show it: numbers that came as text without quotes, long ones cut."""
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9][0-9.]*", value, re.ASCII)
    shown = str(value) if is_number else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`did you mean 'int8'?` where one of the known words is near to the given one, else an empty text."""
    near = get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def _sentence(reason: str) -> str:
    return reason if reason.endswith((".", "?", "!")) else f"{reason}."


def _plain(value: object) -> object:
    """As JSON takes it."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _kinds(base: type[A2VError]) -> dict[str, type[A2VError]]:
    kinds = {base.__name__: base}
    for kind in base.__subclasses__():
        kinds.update(_kinds(kind))
    return kinds
