"""The versions of the model that can be run. To add one, write its file and a line of `VERSIONS`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ltx_a2v.versions.ltx_2_3 import LTX_2_3
from ltx_a2v.versions.version import (
    Covered,
    CoveredLayers,
    GenerationDefaults,
    KeyMaps,
    LatentLayout,
    ModelConfig,
    ModelVersion,
    Schedule,
    Sections,
    Tiling,
)

__all__ = [
    "NEWEST",
    "VERSIONS",
    "Covered",
    "CoveredLayers",
    "GenerationDefaults",
    "KeyMaps",
    "LatentLayout",
    "ModelConfig",
    "ModelVersion",
    "Schedule",
    "Sections",
    "Tiling",
    "version_of",
]

VERSIONS: tuple[tuple[tuple[int, int], ModelVersion], ...] = (((2, 3), LTX_2_3),)
"""The first `model_version` of each, newest first."""
NEWEST = VERSIONS[0][1]
"""The version whose defaults requests get before a model is opened."""


def version_of(path: Path, metadata: Mapping[str, str], sections: Sections) -> ModelVersion:
    """The newest version that the checkpoint is at or above; the oldest for one that says less.

    Raises `InvalidModel` where the checkpoint, whose `sections` are its config, is not of that version.
    """
    model_version = str(metadata.get("model_version", ""))
    found = re.match(r"(\d+)\.(\d+)", model_version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    version = next((version for since, version in VERSIONS if number >= since), VERSIONS[-1][1])
    version.check(path, model_version, sections)
    return version
