"""The names of tensors: original checkpoint <-> diffusers' modules. The maps themselves belong to a model's version.

Every map is one-to-one, so that the same table reads the original files and writes them. A name is renamed first at
its beginning (`prefixes`), then segment by segment (`segments`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyMap:
    """The names of one network's tensors in the file (left) and in its diffusers module (right)."""

    prefixes: tuple[tuple[str, str], ...]
    segments: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    """Prefixes that match but belong to another network."""

    def to_module(self, name: str) -> str | None:
        """The module's name for a tensor of the file, or None when the tensor is not this network's."""
        if name.startswith(self.excludes):
            return None
        return _rename(name, self.prefixes, self.segments)

    def to_file(self, name: str) -> str:
        back = tuple((ours, original) for original, ours in self.prefixes)
        renamed = _rename(name, back, {ours: original for original, ours in self.segments.items()})
        if renamed is None:
            raise KeyError(name)
        return renamed


def _rename(name: str, prefixes: Iterable[tuple[str, str]], segments: Mapping[str, str]) -> str | None:
    for old, new in sorted(prefixes, key=lambda pair: -len(pair[0])):
        if name.startswith(old):
            rest = ".".join(segments.get(segment, segment) for segment in name[len(old) :].split("."))
            return new + rest
    return None


AS_IN_FILE = KeyMap(prefixes=(("", ""),))
