"""Every part of the training runs, a few steps each, and what it makes opens."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ltx_a2v import A2VPipeline, ModelPaths

TRAINING = Path(__file__).parents[2] / "training"
PARTS = (
    ("video_vae.py", "--tiny", "--steps", "1"),
    ("audio_vae.py", "--tiny"),
    ("banks.py", "--tiny"),
    ("transformer.py", "--tiny"),
    ("lora.py", "--tiny"),
    ("upsampler.py", "--tiny"),
)


@pytest.mark.slow
def test_every_part(tmp_path: Path) -> None:
    seconds = np.arange(120 * 16000) / 16000
    swell = np.sin(9 * seconds) * np.sin(1200 * seconds)
    np.savez_compressed(tmp_path / "speech.npz", speech=(swell * 100).astype(np.int8))
    for script, *options in PARTS:
        folder = tmp_path / "banks" if script == "banks.py" else tmp_path
        extra = ["--banks", str(tmp_path / "banks")] if script in ("transformer.py", "lora.py") else []
        run(script, *options, "--device", "cpu", "--input", str(tmp_path), "--output", str(folder), *extra)
    run("pack.py", "--input", str(tmp_path), "--output", str(tmp_path / "model"))
    A2VPipeline.open(ModelPaths.discover(tmp_path / "model"), device="cpu")
    assert (tmp_path / "video_vae_64x64.png").exists()


def run(script: str, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # waiting threads would take what the others need
    done = subprocess.run(
        [sys.executable, str(TRAINING / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
