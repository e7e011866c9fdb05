"""Flags that make a small video."""

from __future__ import annotations

from ltx_a2v import ModelPaths
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


def generate(model: ModelPaths, *more: str) -> list[str]:
    return [
        "generate",
        *("--model-dir", str(model.checkpoint.parent)),
        *("--prompt", "A robot speaks.", "--audio", str(EXAMPLES / "speech.wav")),
        *("--width", "128", "--height", "64", "--num-frames", "17", "--num-inference-steps", "2", "--device", "cpu"),
        *more,
    ]
