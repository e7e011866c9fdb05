"""A long video that is killed at random moments is completed with the bytes of one that was never interrupted.

    uv run python scripts/kill_check.py --model-dir ~/.cache/ltx-a2v/puppet/2.3-puppet.1 [--kills 10] [--seed 1]

Each attempt is a process of its own, ended by `SIGKILL`. An attempt that finishes before its kill is compared, and the
video is begun again. Prints a line per attempt; exits with 1 where bytes differ or a file is left.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths

EXAMPLES = Path(__file__).parents[1] / "examples"


def make(model: Path, request: GenerationRequest) -> None:
    """In the process that may be killed."""
    os.environ["LTX_A2V_REPRODUCIBLE"] = "1"  # signatures differ each time
    A2VPipeline.open(ModelPaths.discover(model), device="cpu").run(request)


def attempt(model: Path, request: GenerationRequest, kill_after: float | None) -> bool:
    """Whether the video is complete; False after a kill."""
    # Forked, so that an attempt needs no seconds to import torch, which has started no threads yet.
    process = multiprocessing.get_context("fork").Process(target=make, args=(model, request))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode:
        sys.exit(f"An attempt ended with {process.exitcode}.")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        request = GenerationRequest(
            prompt="A person speaks.",
            image=EXAMPLES / "face.png",
            audio=EXAMPLES / "speech.wav",
            output_path=Path(folder) / "once.mp4",
            width=128,
            height=128,
            num_frames=145,
            window_frames=41,
            window_overlap=9,
            quality="fast",
        )
        begun = time.monotonic()
        attempt(options.model_dir, request, None)
        seconds, once = time.monotonic() - begun, request.output_path.read_bytes()
        print(f"uninterrupted: {seconds:.1f} s, {len(once)} bytes", flush=True)

        work = Path(folder) / "work"
        request = request.model_copy(update={"output_path": Path(folder) / "video.mp4", "work_dir": work})
        kills = completed = 0
        while kills < options.kills or not completed:
            after = moments.uniform(0, seconds / 2) if kills < options.kills else None
            if not attempt(options.model_dir, request, after):
                kills += 1
                kept = sorted(path.name for path in work.iterdir()) if work.exists() else []
                print(f"kill {kills} after {after:.1f} s: {', '.join(kept) or 'nothing kept'}", flush=True)
                completed = 0
                continue
            completed += 1
            same, left = request.output_path.read_bytes() == once, sorted(p.name for p in Path(folder).iterdir())
            print(f"complete: {'the same bytes' if same else 'OTHER BYTES'}; left: {', '.join(left)}", flush=True)
            if not same or left != ["once.mp4", "video.mp4"]:
                sys.exit(1)
            request.output_path.unlink()


if __name__ == "__main__":
    main()
