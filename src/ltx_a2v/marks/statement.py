"""What a video says of itself, and the forms in which it says it.

comment tag     one line, by the muxer: players and `ffprobe` show it, and remuxing keeps it
XMP packet      all of it, in a box at the end of the file, with IPTC's digital source type
C2PA manifest   all of it, signed (`manifest`)
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import quoteattr

SYSTEM = "ltx-a2v"
MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CHANGED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source types: a video that a model made, and one in which it made a part."""
_OPENINGS = {MADE: "Made by AI", CHANGED: "Changed by AI"}
_SIGNED = "C2PA"
_OWN = "urn:ltx-a2v:marks:1"
_SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "ltx": _OWN,
}
_FIELDS = ("provider", "system", "version", "model", "time", "id", "signed")


@dataclass(frozen=True)
class Statement:
    """Who and what made a video, when, and with which settings."""

    provider: str
    version: str
    """Of this software."""
    model: str
    """Name and version of the model, as far as known."""
    time: str
    """UTC, as 2026-11-25T09:30:00Z; empty where it is left out."""
    id: str
    """As urn:uuid:…"""
    signed: bool
    """Whether a manifest was to be signed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`request`, `video`, `model`, `inputs`; empty where only the comment was left."""

    @property
    def source_type(self) -> str:
        return CHANGED if "retake" in self.settings else MADE

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._texts().items() if value} | {"signed": self.signed}

    # -- the comment tag ---------------------------------------------------------------------------------------------

    def comment(self) -> str:
        """As `Made by AI; provider: …; system: ltx-a2v; …`."""
        texts = {name: value.replace(";", ",") for name, value in self._texts().items() if value}
        return "; ".join([_OPENINGS[self.source_type], *(f"{name}: {value}" for name, value in texts.items())])

    @classmethod
    def from_comment(cls, comment: str) -> Statement | None:
        """None for a comment of others."""
        opening, *parts = comment.split("; ")
        if opening not in _OPENINGS.values():
            return None
        return cls._from_texts(dict(part.partition(": ")[::2] for part in parts))

    # -- the XMP packet ----------------------------------------------------------------------------------------------

    def packet(self) -> bytes:
        values = {
            "xmp:CreatorTool": f"{SYSTEM} {self.version}",
            "xmp:CreateDate": self.time,
            "xmpMM:InstanceID": self.id,
            "Iptc4xmpExt:DigitalSourceType": self.source_type,
            **{f"ltx:{name}": value for name, value in self._texts().items()},
            "ltx:settings": json.dumps(self.settings, sort_keys=True),
        }
        spaces = "".join(f' xmlns:{name}="{uri}"' for name, uri in _SPACES.items())
        attributes = "".join(f" {name}={quoteattr(value)}" for name, value in values.items() if value)
        description = f'<rdf:Description rdf:about=""{attributes}/>'
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"{spaces}><rdf:RDF>{description}</rdf:RDF></x:xmpmeta>'
            '<?xpacket end="r"?>'
        ).encode()

    @classmethod
    def from_packet(cls, packet: bytes) -> Statement | None:
        """None for a packet of others, or one that cannot be read."""
        if b"<!" in packet:  # declarations, which XMP does not need and parsers can be harmed by
            return None
        try:
            description = ET.fromstring(packet).find("rdf:RDF/rdf:Description", _SPACES)
            found = {} if description is None else description.attrib
            texts = {name: found.get(f"{{{_OWN}}}{name}", "") for name in _FIELDS}
            return cls._from_texts(texts, json.loads(found.get(f"{{{_OWN}}}settings", "{}")))
        except (ET.ParseError, ValueError, RecursionError):
            return None

    # -- both --------------------------------------------------------------------------------------------------------

    def _texts(self) -> dict[str, str]:
        return {
            "provider": self.provider,
            "system": SYSTEM,
            "version": self.version,
            "model": self.model,
            "time": self.time,
            "id": self.id,
            "signed": _SIGNED if self.signed else "",
        }

    @classmethod
    def _from_texts(cls, texts: Mapping[str, str], settings: Any = None) -> Statement | None:
        if texts.get("system") != SYSTEM:
            return None
        return cls(
            provider=texts.get("provider", ""),
            version=texts.get("version", ""),
            model=texts.get("model", ""),
            time=texts.get("time", ""),
            id=texts.get("id", ""),
            signed=texts.get("signed") == _SIGNED,
            settings=settings if isinstance(settings, dict) else {},
        )
