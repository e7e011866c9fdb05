"""`ltx-a2v demo`: a drawn face speaks, made by the miniature model that ships."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_a2v.cli.check import lag_in_words
from ltx_a2v.cli.early import check_files
from ltx_a2v.cli.output import say, write_out
from ltx_a2v.cli.outputs import add_overwrite_flag, free_output
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.report import add_report_flag, print_report
from ltx_a2v.cli.speech import add_speech_flags, check_speech_flags, sound_of, sounds_of, spoken
from ltx_a2v.cli.stopping import importing
from ltx_a2v.errors import named
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.media.output_file import check_output_file, check_overwrites_nothing, write_whole
from ltx_a2v.puppet import NUM_FRAMES, SIZES, puppet_paths, puppet_size
from ltx_a2v.puppet.examples import FACE, PROMPT, SPEECH
from ltx_a2v.request import GenerationRequest, flag_of, nearest_shape

if TYPE_CHECKING:
    from ltx_a2v.media.sync import Sync

HELP = "make a drawn face speak, with the miniature model that ships"
DEFAULT_OUTPUT = Path("demo.mp4")


EXAMPLES = (
    ("a drawn face speaks: demo.mp4, and demo.png to look at", "demo"),
    ("from text alone: also hello.wav", 'demo --say "Hello, I am a talking picture." --output-path hello.mp4'),
    ("your own voice and face", 'demo --audio speech.mp3 --image face.png --prompt "A woman speaks." --open'),
)


def add_flags(parser: Parser) -> None:
    parser.add_argument("--audio", type=Path, default=None, help="the speech; default: an example of 5 s")
    add_speech_flags(parser)
    parser.add_argument("--image", type=Path, default=FACE, help="an upright face; default: a drawn one")
    parser.add_argument("--prompt", default=PROMPT, help=f"what is to be seen (default: {PROMPT})")
    quality = GenerationRequest.model_fields["quality"]
    parser.add_argument(
        flag_of(GenerationRequest, "quality"),
        choices=typing.get_args(quality.annotation),
        default=quality.default,
        help="'fast': the miniature's distilled LoRA in both stages, a few steps in one pass (default: standard)",
    )
    parser.add_argument(
        "--output-path",
        type=Path,
        default=None,
        help="where to write the mp4; its contact sheet is the PNG of the same name (default: demo.mp4, or the first "
        "free name of demo-2.mp4, demo-3.mp4 ...)",
    )
    add_overwrite_flag(parser)
    parser.add_argument("--open", action="store_true", help="open the video when it is done")
    add_report_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    given = arguments.output_path is not None
    arguments.output_path = arguments.output_path or DEFAULT_OUTPUT
    _check(arguments)
    arguments.output_path = free_output(
        arguments.output_path,
        given=given,
        overwrite=arguments.overwrite,
        files=lambda video: (video, _sheet_of(video), *sounds_of(arguments, video)),
    )
    if arguments.say is not None:
        arguments.audio = sound_of(arguments.output_path)
    with spoken(arguments, arguments.audio):
        return _make(arguments)


def _make(arguments: argparse.Namespace) -> int:
    paths = puppet_paths()
    say(f"ltx-a2v demo: {arguments.output_path}, with the {puppet_size()} miniature model; loading libraries ...")
    prepare_libraries()

    with importing():
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.session import A2VPipeline

    request = _request(arguments)
    sheet = _sheet_of(arguments.output_path)
    result = watch(A2VPipeline.open(paths, device="cpu").generate(request))
    sync, drawn = _look_at(request.output_path, result.frame_rate)
    write_whole(sheet, drawn)
    details = {
        **result.details,
        "contact_sheet": str(sheet),
        "sync": {"correlation": sync.correlation, "lag": sync.lag},
    }
    print_report(replace(result, details=details), arguments.report)
    if arguments.report == "text":
        write_out(_measured(sync, result.frame_rate, sheet))
        say(f"Made by the {puppet_size()} miniature that ships with ltx-a2v, not by the 22B model (see README).")
    if arguments.open:
        _open(request.output_path)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Mistakes are answered before anything heavy is imported."""
    check_speech_flags(arguments, arguments.audio is not None)
    is_spoken = arguments.say is not None
    sheet = _sheet_of(arguments.output_path)
    check_overwrites_nothing({"The contact sheet": sheet}, [(named("image"), arguments.image)])
    check_files(
        GenerationRequest(
            prompt=arguments.prompt,
            image=arguments.image,
            audio=sound_of(arguments.output_path) if is_spoken else arguments.audio or SPEECH,
            output_path=arguments.output_path,
        ),
        is_spoken,
    )
    check_output_file(sheet, ".png", "demo.png")


def _sheet_of(video: Path) -> Path:
    """Of any path that was given, also one without a name, which the checks answer."""
    return video.parent / f"{video.stem}.png"


def _request(arguments: argparse.Namespace) -> GenerationRequest:
    """In the trained size that is nearest to the picture's shape; five seconds, or as long as the user's sound."""
    from ltx_a2v.media.picture import decode_image

    picture_height, picture_width, _ = decode_image(arguments.image, crf=0).shape
    width, height = nearest_shape((picture_width, picture_height), SIZES)
    return GenerationRequest(
        prompt=arguments.prompt,
        image=arguments.image,
        audio=arguments.audio or SPEECH,
        output_path=arguments.output_path,
        width=width,
        height=height,
        num_frames="auto" if arguments.audio else NUM_FRAMES,
        quality=arguments.quality,
    )


def _look_at(video: Path, frame_rate: float) -> tuple[Sync, bytes]:
    """The sync measured in the finished file, and its contact sheet as PNG."""
    from ltx_a2v.media.contact_sheet import contact_sheet
    from ltx_a2v.media.read_video import read_frames
    from ltx_a2v.media.sound.prepare import load_audio
    from ltx_a2v.media.sync import measure_sync

    frames = read_frames(video)
    sound = load_audio(video, 0.0, len(frames) / frame_rate)
    sync = measure_sync(frames, sound.waveform, sound.sample_rate, frame_rate)
    png = io.BytesIO()
    contact_sheet(frames, sound.waveform, sound.sample_rate, frame_rate).save(png, "PNG", optimize=True)
    return sync, png.getvalue()


def _measured(sync: Sync, frame_rate: float, sheet: Path) -> str:
    return (
        f"sync: the mouth's opening follows the loudness with a correlation of {sync.correlation:.2f}, "
        f"{lag_in_words(sync.lag, frame_rate)}; see {sheet}\n"
    )


def _open(video: Path) -> None:
    """With the program that the platform opens videos with; without one, a sentence says so."""
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        subprocess.Popen([opener, str(video.absolute())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        say(f"The video cannot be opened: {opener} is not installed; open {video} yourself.")
