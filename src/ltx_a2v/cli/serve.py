"""`ltx-a2v serve`: take requests over HTTP, and give the GPU back in between."""

from __future__ import annotations

import argparse

from ltx_a2v.cli.flags import add_model_flags, add_setting_flags, settings_from
from ltx_a2v.settings.server import ServerSettings

HELP = "take requests over HTTP, and give the GPU back in between"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_model_flags(parser)
    add_setting_flags(parser, ServerSettings, "server")


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.serving.main import serve

    return serve(settings_from(arguments, ServerSettings))
