"""The settings of a video as its marks hold them, and as a request reads them back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ltx_a2v.request import DEFAULTS, GenerationRequest

NOT_READ_BACK = {
    *("output_path", "audio", "image", "images", "save_latents", "work_dir", "retake"),
    *("prompt", "negative_prompt", "enhance_prompt", "check_sync", "mark_prompt", "previews"),
}
"""Fields of a request that its settings leave out: files, the user's words, and what changes no frame."""


@dataclass(frozen=True)
class Made:
    """What the model adds to the settings."""

    model: str
    """Name and version."""
    video: Mapping[str, Any] = field(default_factory=dict)
    """Width, height, frames and frame rate."""
    modes: Mapping[str, Any] = field(default_factory=dict)
    """How it computes: quantization and so on."""
    loras: tuple[tuple[Path, float], ...] = ()


def settings_of(request: GenerationRequest, made: Made) -> dict[str, Any]:
    """What a video's settings are read back from: no paths, and the prompt only where the request says so."""
    of_a_part = set() if request.retake is None else {"num_frames", "audio_start_time"}
    asked = request.model_dump(mode="json", exclude=NOT_READ_BACK | of_a_part)
    told = {}
    if request.mark_prompt:
        asked["prompt_style"] = "none"  # which the prompt has by now
        told = {"prompt": request.prompt}
    if request.mark_prompt or request.negative_prompt == DEFAULTS.negative_prompt:
        told["negative_prompt"] = request.negative_prompt
    retake = request.retake
    part = {} if retake is None else {"retake": {"start": retake.start, "end": retake.end}}
    source = () if retake is None else (retake.video,)
    return {
        **part,
        "request": {**asked, **told},
        "video": dict(made.video),
        "model": dict(made.modes),
        "inputs": [
            {"kind": "sound", "sha256": _digest(request.audio)},
            *({"kind": "video", "sha256": _digest(path)} for path in source),
            *({"kind": "picture", "sha256": _digest(picture.file)} for picture in request.pictures),
            *({"kind": "lora", "sha256": _digest(path), "strength": strength} for path, strength in made.loras),
        ],
    }


def fields_from(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `GenerationRequest` that settings hold; those of another version that this one lacks are left
    out. The values are not checked yet."""
    asked = settings.get("request")
    known = set(GenerationRequest.model_fields) - (NOT_READ_BACK - {"prompt", "negative_prompt"})
    return {name: value for name, value in asked.items() if name in known} if isinstance(asked, dict) else {}


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
