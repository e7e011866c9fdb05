"""`ltx-a2v retake VIDEO`: make a part of a finished video again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltx_a2v.cli.early import check_model
from ltx_a2v.cli.flags import add_model_flags, add_request_flags, request_from, settings_from
from ltx_a2v.cli.output import say
from ltx_a2v.cli.outputs import add_overwrite_flag, free_output
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.report import add_report_flag, print_report
from ltx_a2v.cli.stopping import importing
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing
from ltx_a2v.request import RETAKE_PROMPT, Retake
from ltx_a2v.settings.model import ModelSettings

HELP = "make a part of a finished video again"
EXAMPLES = (
    ("from second 3.2 to 5, with another seed", "retake talk.mp4 --from 3.2 --to 5 --seed 7 --model-dir ~/models/ltx"),
    ("all of it, to another voice", "retake talk.mp4 --from 0 --to 6 --audio other.mp3 --model-dir ~/models/ltx"),
)
FIELDS = ("prompt", "seed", "quality", "num_inference_steps", "negative_prompt", "speech_preparation", "visible_label")


def add_flags(parser: Parser) -> None:
    parser.usage = "ltx-a2v retake VIDEO --from SECONDS --to SECONDS [flags]"
    everyday = parser.everyday
    everyday.add_argument("video", type=Path, metavar="VIDEO", help="the finished video")
    everyday.add_argument("--from", dest="start", type=float, required=True, metavar="SECONDS", help="where it begins")
    everyday.add_argument("--to", dest="end", type=float, required=True, metavar="SECONDS", help="where it ends")
    everyday.add_argument("--audio", type=Path, metavar="PATH", help="another sound for all of it (default: its own)")
    everyday.add_argument(
        "--output-path",
        dest="request.output_path",
        type=Path,
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="where to write the mp4 (default: VIDEO-retake.mp4)",
    )
    add_request_flags(parser, only=FIELDS, of_video=True)
    add_overwrite_flag(everyday)
    add_model_flags(parser)
    add_report_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.media.part import check_has_sound, check_source, frames_of_range
    from ltx_a2v.media.sound.decode import audio_seconds

    settings = settings_from(arguments, ModelSettings)
    retake = Retake(video=arguments.video, start=arguments.start, end=arguments.end)
    frames_of_range(retake, check_source(retake))
    output = retake.video.with_stem(f"{retake.video.stem}-retake").with_suffix(".mp4")
    defaults = {"prompt": RETAKE_PROMPT, "output_path": output, "quality": settings.default_quality}
    request = request_from(arguments, audio=arguments.audio or retake.video, retake=retake, **defaults)
    check_model(settings)
    given = "request.output_path" in vars(arguments)
    free = free_output(request.output_path, given=given, overwrite=arguments.overwrite)
    request = request.model_copy(update={"output_path": free})
    check_output_file(request.output_path, ".mp4", "video.mp4")
    check_overwrites_nothing({"--output-path": request.output_path}, [("the video", retake.video)])
    if arguments.audio is None:
        check_has_sound(retake)
    audio_seconds(request.audio, at_most=0.1)
    say(f"{retake.video}: {retake.start:g} s to {retake.end:g} s becomes {request.output_path}; loading libraries ...")
    prepare_libraries()

    with importing():
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.session import open_pipeline

    print_report(watch(open_pipeline(settings).generate(request)), arguments.report)
    return 0
