"""Every part of the training runs, a few steps each, and what it makes opens."""

import json
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
RUN_ALL = """
import json, runpy, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
for script, *arguments in json.loads(sys.argv[2]):
    sys.argv = [script, *arguments]
    runpy.run_path(f"{folder}/{script}", run_name="__main__")
"""


@pytest.mark.slow
def test_every_part(tmp_path: Path) -> None:
    seconds = np.arange(120 * 16000) / 16000
    swell = np.sin(9 * seconds) * np.sin(1200 * seconds)
    np.savez_compressed(tmp_path / "speech.npz", speech=(swell * 100).astype(np.int8))
    banks = tmp_path / "banks"
    written_to = {"banks.py": banks}
    extra = dict.fromkeys(("transformer.py", "lora.py"), ("--banks", str(banks)))
    run_all(
        *(
            (*part, "--device", "cpu", *files(tmp_path, written_to.get(part[0], tmp_path)), *extra.get(part[0], ()))
            for part in PARTS
        ),
        ("pack.py", *files(tmp_path, tmp_path / "model")),
    )
    A2VPipeline.open(ModelPaths.discover(tmp_path / "model"), device="cpu")
    assert (tmp_path / "video_vae_64x64.png").exists()


def files(given: Path, written: Path) -> tuple[str, ...]:
    return "--input", str(given), "--output", str(written)


def run_all(*commands: tuple[str, ...]) -> None:
    """Scripts with their arguments, one after the other in one process: each would import torch for several seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # waiting threads would take what the others need
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(TRAINING), json.dumps(commands)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
