"""Every error that a user can meet, as one tree.

    A2VError
    ├── InvalidInput            what was given cannot be used
    │   ├── InvalidRequest      a value of the request
    │   ├── InvalidAudio        the audio file
    │   ├── InvalidImage        the image file
    │   ├── InvalidModel        a model file, or the files do not belong together
    │   ├── InvalidMode         a quantization mode that does not exist, or not on this device
    │   │   └── MissingExtra    an optional dependency that is not installed
    │   ├── InvalidOutput       the place to write to
    │   └── TooLarge            an upload or a value beyond the server's limits
    ├── BudgetTooSmall          the VRAM budget (or host memory) cannot hold the smallest plan
    ├── OutOfMemory             the device, or the host, ran out of memory while working
    ├── NotFinite               the networks computed values that are no numbers
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
"""

from __future__ import annotations


class A2VError(Exception):
    """Base of all; also the status of an error that has no better one."""

    code = "internal_error"
    exit_code = 1
    http_status = 500


class InvalidInput(A2VError):
    code = "invalid_input"
    exit_code = 2
    http_status = 400


class InvalidRequest(InvalidInput):
    code = "invalid_request"
    http_status = 422


class InvalidAudio(InvalidInput):
    code = "invalid_audio"


class InvalidImage(InvalidInput):
    code = "invalid_image"


class InvalidModel(InvalidInput):
    code = "invalid_model"
    http_status = 500


class InvalidMode(InvalidInput):
    code = "invalid_mode"


class MissingExtra(InvalidMode):
    """`extra` is the name in pyproject: `pip install 'ltx-a2v[extra]'`."""

    code = "missing_extra"
    http_status = 500

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}, which is not installed: pip install 'ltx-a2v[{extra}]'.")


class InvalidOutput(InvalidInput):
    code = "invalid_output"


class TooLarge(InvalidInput):
    """`code` names which limit: `image_too_large`, `audio_too_large`, `body_too_large`, …"""

    code = "too_large"
    http_status = 413

    def __init__(self, message: str, code: str = code) -> None:
        super().__init__(message)
        self.code = code


class BudgetTooSmall(A2VError):
    code = "budget_too_small"
    exit_code = 2
    http_status = 503


class OutOfMemory(A2VError):
    code = "out_of_memory"
    http_status = 503


class NotFinite(A2VError):
    code = "not_finite"


class Unavailable(A2VError):
    code = "unavailable"
    http_status = 503


class QueueFull(Unavailable):
    code = "queue_full"
    http_status = 429


class StorageFailed(Unavailable):
    """`code` says how: `storage_full` (507) or `storage_unwritable` (503)."""

    code = "storage_unwritable"


class NotFound(A2VError):
    code = "not_found"
    exit_code = 2
    http_status = 404


class Expired(NotFound):
    code = "expired"
    http_status = 410


class Conflict(A2VError):
    code = "conflict"
    http_status = 409


class Unauthorized(A2VError):
    code = "unauthorized"
    exit_code = 2
    http_status = 401


class Forbidden(Unauthorized):
    code = "forbidden"
    http_status = 403


class Cancelled(A2VError):
    code = "cancelled"
    exit_code = 130
    http_status = 409


class WorkerFailed(A2VError):
    code = "worker_failed"
