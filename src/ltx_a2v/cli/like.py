"""`generate --like VIDEO`: the settings of a finished video, where no flag says otherwise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ltx_a2v.cli.output import say
from ltx_a2v.errors import InvalidInput, named

WORDS = ("prompt", "audio")
"""Required, and only a video that was made with --mark-prompt has the first."""


def add_like_flag(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> None:
    """And makes argparse accept that what the video may hold is not given."""
    group.add_argument(
        "--like",
        type=Path,
        metavar="VIDEO",
        help="take the settings from a video that ltx-a2v made; flags go before them. Prompt, sound and pictures are "
        "given as usual, since a video does not hold them (the prompt: only with --mark-prompt)",
    )
    for action in parser._actions:
        if action.dest in {f"request.{name}" for name in WORDS}:
            action.required = False


def settings_like(video: Path | None) -> dict[str, Any]:
    """Fields of a `GenerationRequest`. Raises `InvalidInput` where the video has no settings."""
    if video is None:
        return {}
    from ltx_a2v.marks.inspection import inspect_video
    from ltx_a2v.marks.settings import fields_from

    found = inspect_video(video)
    fields = fields_from(found.settings)
    if not fields:
        raise InvalidInput(f"{video} holds no settings of ltx-a2v; see `ltx-a2v inspect` for what it holds.")
    if found.state == "changed":
        say(f"ltx-a2v: {video} was changed after it was made; its settings may be, too.")
    kinds = [each.get("kind") for each in found.settings.get("inputs", ()) if isinstance(each, dict)]
    with_files = [f"{kinds.count(kind)} {kind}" for kind in ("picture", "lora")]
    modes = found.settings.get("model", {}).get("transformer_quantization", "unknown")
    say(
        f"like {video}: made with {', '.join(text.replace('lora', 'LoRA') for text in with_files)}, transformer "
        f"quantization {modes}. Files are not read back."
    )
    return fields


def check_given(arguments: argparse.Namespace, fields: dict[str, Any]) -> None:
    """Raises `InvalidInput` for what is neither a flag nor in the video."""
    given = vars(arguments).keys() | {"request.audio"} if arguments.say is not None else vars(arguments)
    missing = [name for name in WORDS if f"request.{name}" not in given and name not in fields]
    if not missing:
        return
    shown = ", ".join(map(named, missing)) + f" or {named('say')}" * ("audio" in missing)
    if arguments.like is not None:
        raise InvalidInput(f"{arguments.like} does not hold everything; still required: {shown}.")
    raise InvalidInput(f"These flags are required: {shown}; see ltx-a2v generate --help.")
