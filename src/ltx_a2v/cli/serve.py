"""`ltx-a2v serve`: take requests over HTTP, and give the GPU back in between."""

from __future__ import annotations

import argparse

from ltx_a2v.cli.flags import add_model_flags, add_setting_flags, settings_from
from ltx_a2v.cli.parser import Parser
from ltx_a2v.settings.server import ServerSettings

HELP = "take requests over HTTP, and give the GPU back in between"


EXAMPLES = (
    ("try it with the miniature model that ships: http://127.0.0.1:8892", "serve --demo"),
    ("the real model, for this machine only", "serve --model-dir ~/models/ltx"),
    ("for others in the network; the key is in LTX_A2V_API_KEY", "serve --model-dir ~/models/ltx --host 0.0.0.0"),
)


def add_flags(parser: Parser) -> None:
    add_model_flags(parser)
    add_setting_flags(parser, ServerSettings, "expert: server")


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.serving.main import serve

    return serve(settings_from(arguments, ServerSettings))
