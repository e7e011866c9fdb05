"""`ltx-a2v generate`: make one video."""

from __future__ import annotations

import argparse

from ltx_a2v.cli.flags import add_model_flags, add_request_flags, request_from, settings_from
from ltx_a2v.cli.report import add_report_flag, print_report
from ltx_a2v.cli.stopping import importing
from ltx_a2v.hardware.environment import prepare_libraries
from ltx_a2v.settings.model import ModelSettings

HELP = "make one video"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_request_flags(parser)
    add_model_flags(parser)
    add_report_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments, ModelSettings)
    request = request_from(arguments, quality=settings.default_quality)
    settings.check()  # mistakes answer before anything heavy is imported
    prepare_libraries()

    with importing():
        from ltx_a2v.cli.progress import watch
        from ltx_a2v.session import open_pipeline

    print_report(watch(open_pipeline(settings).generate(request)), arguments.report)
    return 0
