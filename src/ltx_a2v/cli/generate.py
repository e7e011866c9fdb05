"""`ltx-a2v generate`: make one video."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx_a2v.cli.early import check_files, check_model
from ltx_a2v.cli.flags import add_model_flags, add_request_flags, request_from, settings_from
from ltx_a2v.cli.like import add_like_flag, check_given, settings_like
from ltx_a2v.cli.output import say
from ltx_a2v.cli.outputs import add_overwrite_flag, check_free, free_output
from ltx_a2v.cli.parser import Parser
from ltx_a2v.cli.report import add_report_flag, print_report
from ltx_a2v.cli.speech import add_speech_flags, check_speech_flags, sound_of, sounds_of, spoken
from ltx_a2v.cli.stopping import EXIT_CODE, importing
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.prompts.wording import check_enhancer
from ltx_a2v.request import GenerationRequest
from ltx_a2v.settings.model import ModelSettings

HELP = "make one video"


EXAMPLES = (
    (
        "as long as the sound, in the shape of the picture",
        'generate --model-dir ~/models/ltx --image face.png --audio speech.mp3 --prompt "A woman speaks calmly."',
    ),
    (
        "from text alone, with a voice that a package brings: hello.mp4 and hello.wav",
        'generate --model-dir ~/models/ltx --say "Hello, nice to see you." --prompt "A man speaks." '
        "--output-path hello.mp4",
    ),
    (
        "within 8 GiB of the GPU",
        'generate --model-dir ~/models/ltx --vram-budget 8GiB --audio speech.mp3 --prompt "A man speaks."',
    ),
)


def add_flags(parser: Parser) -> None:
    add_request_flags(parser)
    add_speech_flags(parser.everyday)
    add_like_flag(parser, parser.everyday)
    add_overwrite_flag(parser.everyday)
    add_model_flags(parser)
    add_report_flag(parser)
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure this machine first, for some seconds; the report has the predicted times next to the measured",
    )


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, ModelSettings)
    enhance = "prompt_enhancer_url" in vars(arguments)  # a flag is a wish, the environment only a possibility
    like = settings_like(arguments.like)
    check_given(arguments, like)
    check_speech_flags(arguments, "request.audio" in vars(arguments))
    request = _request(arguments, {"quality": settings.default_quality, "enhance_prompt": enhance, **like})
    check_model(settings)  # mistakes answer before anything heavy is imported
    check_enhancer(request, settings.prompt_enhancer)
    check_files(request, spoken=arguments.say is not None)
    output = free_output(
        request.output_path,
        given="request.output_path" in vars(arguments),
        overwrite=arguments.overwrite,
        files=lambda video: (video, *sounds_of(arguments, video)),
    )
    sound = request.audio if arguments.say is None else sound_of(output)
    request = request.model_copy(update={"output_path": output, "audio": sound})
    check_free("save_latents", request.save_latents, arguments.overwrite)
    try:
        with spoken(arguments, request.audio):
            _generate(arguments, settings, request)
    except KeyboardInterrupt:
        if request.work_dir is None or not request.work_dir.exists():
            raise
        say(f"ltx-a2v: stopped; finished windows are kept in {request.work_dir}. The same command goes on there.")
        return EXIT_CODE
    return 0


def _request(arguments: argparse.Namespace, defaults: dict[str, Any]) -> GenerationRequest:
    """The sound of `--say` has its name from the output."""
    if arguments.say is None:
        return request_from(arguments, **defaults)
    request = request_from(arguments, **{**defaults, "audio": Path("spoken.wav")})
    return request.model_copy(update={"audio": sound_of(request.output_path)})


def _generate(arguments: argparse.Namespace, settings: ModelSettings, request: GenerationRequest) -> None:
    say(f"ltx-a2v {version('ltx-a2v')}: {request.audio.name} becomes {request.output_path}; loading libraries ...")
    prepare_libraries()

    with importing():
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.session import open_pipeline

    pipeline = open_pipeline(settings)
    if arguments.measure:
        pipeline.measure_fitted(request)
    print_report(watch(pipeline.generate(request)), arguments.report)
