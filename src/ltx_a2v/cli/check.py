"""`ltx-a2v check VIDEO`: how the mouth follows the sound."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ltx_a2v.cli.output import write_out
from ltx_a2v.cli.outputs import add_overwrite_flag, check_free
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.stopping import importing
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing, write_whole

HELP = "measure how the mouth of a finished video follows its sound"
EXAMPLES = (
    ("in parts of five seconds, with a plot", "check video.mp4 --plot sync.png"),
    ("a drawn face, as the demo's", "check demo.mp4 --face drawn --json sync.json"),
)
FACES = ("real", "drawn")
MOST_LINES = 40
"""Parts that are printed."""


def add_flags(parser: Parser) -> None:
    parser.usage = "ltx-a2v check VIDEO [flags]"
    parser.everyday.add_argument("video", type=Path, metavar="VIDEO", help="any video with one face and sound")
    parser.everyday.add_argument("--json", type=Path, metavar="FILE", help="also write all of it, frame by frame")
    parser.everyday.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw it")
    add_overwrite_flag(parser.everyday)
    parser.everyday.add_argument(
        "--face",
        choices=FACES,
        default="real",
        help="'real': by the landmarks of a photographed or filmed face (extra sync); 'drawn': by the dark of a drawn "
        "mouth in the middle of the picture (default: real)",
    )
    parser.everyday.add_argument(
        "--window", type=float, default=5.0, metavar="SECONDS", help="length of a part (default: 5)"
    )


def run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.window <= 3600:
        raise InvalidRequest("window", arguments.window, "must be 1 to 3600 seconds")
    _check_outputs(arguments)
    with importing():
        from ltx_a2v.media.check import check_video
        from ltx_a2v.media.sync_plot import check_plot, plot_sync

    if arguments.plot:
        check_plot()
    sync = check_video(arguments.video, arguments.face, arguments.window)
    if arguments.json:
        found = {"video": str(arguments.video), **sync.as_json(), **sync.series()}
        write_whole(arguments.json, json.dumps(found).encode() + b"\n")
    if arguments.plot:
        write_whole(arguments.plot, plot_sync(sync, arguments.video.name))
    write_out(as_text(sync.as_json()))
    return 0


def as_text(found: dict[str, Any]) -> str:
    """What `VideoSync.as_json` says: a line for the whole, and one per part."""
    rate, parts = found["frame_rate"], found["parts"]
    lines = [
        f"face: {found['face']}, found in {found['frames_with_face']} of {found['frames']} frames",
        f"mouth and loudness: {as_line(found, rate)}",
        *(f"  {part['start']:.1f} to {part['end']:.1f} s: {as_line(part, rate)}" for part in parts[:MOST_LINES]),
    ]
    if len(parts) > MOST_LINES:
        lines.append(f"  and {len(parts) - MOST_LINES} more parts, which --json FILE writes")
    return "\n".join(lines) + "\n"


def as_line(part: dict[str, Any], frame_rate: float) -> str:
    """Of a part, or of the whole video."""
    late, rests, chance = part["lag_frames"], part["closed_in_silence"], part.get("by_chance")
    said = "the mouth or the sound does not move"
    if late is not None:
        said = f"correlation {part['correlation']:.2f}, {lag_in_words(late, frame_rate)}"
    if chance is not None:
        said += f" (at wrong times of the sound mostly below {chance:.2f})"
    return said if rests is None else f"{said}, closed in {rests:.0%} of the silent frames"


def lag_in_words(frames: int, frame_rate: float) -> str:
    """Of the mouth behind the sound."""
    if frames == 0:
        return "no lag"
    return f"{abs(frames)} frames ({abs(frames) / frame_rate * 1000:.0f} ms) {'late' if frames > 0 else 'early'}"


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Raises `InvalidOutput` before anything is measured."""
    outputs = {"--json": arguments.json, "--plot": arguments.plot}
    check_overwrites_nothing(outputs, [("the video", arguments.video)])
    for name, path, suffix in (("json", arguments.json, ".json"), ("plot", arguments.plot, ".png")):
        check_free(name, path, arguments.overwrite)
        if path is not None:
            check_output_file(path, suffix, f"sync{suffix}")
