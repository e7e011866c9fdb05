"""What a finished video says of itself, and whether that is intact. No torch is imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ltx_a2v.errors import InvalidInput
from ltx_a2v.marks import manifest
from ltx_a2v.marks.boxes import is_mp4, read_xmp
from ltx_a2v.marks.keys import own_root
from ltx_a2v.marks.statement import CHANGED, MADE, Statement


@dataclass(frozen=True)
class Inspection:
    """What a file says of itself."""

    statement: Statement | None
    """Of this program; None where it says nothing that can be read."""
    manifest: manifest.Manifest
    playable: bool
    """Whether its header can be read."""

    @property
    def state(self) -> str:
        """`intact`, `changed`, `unsigned` (marks that were never signed), `unmarked`, or `unknown`."""
        if self.manifest.state != "missing":
            return self.manifest.state
        if self.statement is None:
            return "unmarked"
        return "changed" if self.statement.signed else "unsigned"

    @property
    def problem(self) -> str:
        """Why the file counts as changed."""
        removed = "it was signed when it was made, and its manifest is gone"
        return self.manifest.problem if self.manifest.state == "changed" else removed * (self.state == "changed")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.statement.settings) if self.statement else {}

    @property
    def is_ai(self) -> bool:
        """Whether the file says that a model made it, or a part of it: this program's or another's."""
        return self.statement is not None or self.manifest.source_type in (MADE, CHANGED)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self.manifest)
        signer = {name: found[name] for name in ("signer", "issuer", "is_known")}
        return {
            "state": self.state,
            "problem": self.problem or None,
            "made_by_ai": self.is_ai,
            "made": self.statement.as_json() if self.statement else None,
            "settings": self.settings or None,
            "signature": signer if self.manifest.signer or self.manifest.issuer else None,
            "generator": self.manifest.generator or None,
        }


def inspect_video(path: Path) -> Inspection:
    """Raises `InvalidInput` where the file is no video, or cannot be read."""
    try:
        with path.open("rb") as file:
            whole = is_mp4(file)
            packet = read_xmp(file) if whole else None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    comment = _comment(path)
    if comment is None and not whole:
        raise InvalidInput(f"{path} is not a video.")
    found = manifest.read(path, own_root()) if whole else manifest.Manifest("missing")
    statement = Statement.from_packet(packet) if packet else None
    if statement is None and found.settings is not None:
        statement = _from_manifest(found.settings)
    if statement is None and comment:
        statement = Statement.from_comment(comment)
    return Inspection(statement, found, comment is not None)


def _comment(path: Path) -> str | None:
    """The comment tag, empty without one; None where the file is no video that can be opened."""
    try:
        with av.open(path) as container:
            is_video = bool(container.streams.video) and not container.format.name.endswith(("_pipe", "image2"))
            return container.metadata.get("comment", "") if is_video else None
    except (FFmpegError, OSError, ValueError):
        return None


def _from_manifest(said: dict[str, Any]) -> Statement | None:
    names = ("provider", "version", "model", "time", "id")
    if not all(isinstance(said.get(name, ""), str) for name in names):
        return None
    settings = {name: value for name, value in said.items() if name not in (*names, "system", "signed")}
    return Statement(**{name: said.get(name, "") for name in names}, signed=True, settings=settings)
