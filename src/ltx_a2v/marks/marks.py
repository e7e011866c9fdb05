"""Marks one video: the tags that the muxer writes, and the last step on the finished file before it gets its name."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx_a2v.errors import InvalidOutput
from ltx_a2v.marks import manifest
from ltx_a2v.marks.boxes import append_xmp
from ltx_a2v.marks.keys import Credentials, own_credentials
from ltx_a2v.marks.marking import Marking
from ltx_a2v.marks.settings import Made, settings_of
from ltx_a2v.marks.statement import SYSTEM, Statement
from ltx_a2v.request import GenerationRequest

FIXED_IDS = uuid.UUID("8a9f2f54-0c0b-5d0c-9a56-5a2c7d0f2b1e")
"""The namespace of ids that follow from the settings."""
UNMARKED = "Marks are turned off: the file does not say that it was made by AI. Who publishes it has to say so."


class Marks:
    """The marks of one video. `tags` go into the container when it is opened, `finish` comes last."""

    def __init__(self, statement: Statement, credentials: Credentials | None) -> None:
        self.tags = {"comment": statement.comment()}
        if statement.time:
            self.tags["date"] = statement.time
        self.notices: list[str] = []
        """What the user should know."""
        self._statement = statement
        self._credentials = credentials
        self._signed = False

    @classmethod
    def begin(cls, marking: Marking, request: GenerationRequest, made: Made) -> Marks | None:
        """None where the marking is turned off.

        Raises `InvalidInput` where the certificate or the key cannot be used.
        """
        if not marking.enabled:
            return None
        marking.check()
        settings = settings_of(request, made)
        credentials, notice = (None, None) if marking.reproducible else _credentials(marking)
        marks = cls(_statement(marking, made, settings, credentials is not None), credentials)
        if notice:
            marks.notices.append(notice)
        return marks

    def finish(self, file: Path) -> None:
        """Complete the marks of a finished file. Where no signature can be made, the video is kept without one."""
        append_xmp(file, self._statement.packet())
        if self._credentials is None:
            return
        signed = file.with_name(f"{file.name}.signed.part")
        try:
            manifest.sign(file, signed, self._statement, self._credentials)
            signed.chmod(file.stat().st_mode & 0o777)
            signed.replace(file)
            self._signed = True
        except manifest.CannotSign as error:
            self.notices.append(_unsigned(str(error)))
        finally:
            signed.unlink(missing_ok=True)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {"id": self._statement.id, "signed": self._signed}


def _statement(marking: Marking, made: Made, settings: dict[str, Any], signed: bool) -> Statement:
    fixed = uuid.uuid5(FIXED_IDS, json.dumps(settings, sort_keys=True))
    return Statement(
        provider=marking.provider,
        version=version(SYSTEM),
        model=made.model,
        time="" if marking.reproducible else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        id=(fixed if marking.reproducible else uuid.uuid4()).urn,
        signed=signed,
        settings=settings,
    )


def _credentials(marking: Marking) -> tuple[Credentials | None, str | None]:
    """What to sign with, or why nothing is signed. Raises `InvalidInput` where given or kept ones cannot be used."""
    given = marking.credentials()
    try:
        manifest.check_library()
        return given or own_credentials(), None
    except manifest.CannotSign as error:
        return None, _unsigned(str(error))
    except InvalidOutput as error:
        return None, _unsigned(error.template.rstrip("."))


def _unsigned(reason: str) -> str:
    return f"The video's tags say that it was made by AI, but they are not signed: {reason}."
