"""`ltx-a2v cluster run`: the server on many machines, with Ray Serve."""

from __future__ import annotations

import argparse

from ltx_a2v.cli.flags import add_model_flags, add_setting_flags, settings_from
from ltx_a2v.cli.parser import Parser
from ltx_a2v.settings.cluster import ClusterSettings
from ltx_a2v.settings.server import ServerSettings

HELP = "serve on many GPUs and machines, with Ray Serve"


EXAMPLES = (
    (
        "two GPUs of this machine; LTX_A2V_DATABASE names the records",
        "cluster run --model-dir ~/models/ltx --storage s3://videos/a2v --max-replicas 2",
    ),
    ("on a Ray cluster that is there", "cluster run --ray-address auto --storage s3://videos/a2v --max-replicas 8"),
)


def add_flags(parser: Parser) -> None:
    parser.add_argument("action", choices=("run",), help="start Ray here, or join it, and deploy the application")
    add_model_flags(parser)
    add_setting_flags(parser, ServerSettings, "expert: server")
    add_setting_flags(parser, ClusterSettings, "expert: cluster")


def run(arguments: argparse.Namespace) -> int:
    from ltx_a2v.serving.cluster.main import run as run_cluster

    return run_cluster(settings_from(arguments, ClusterSettings))
