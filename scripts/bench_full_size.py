"""Time and memory of whole generations at full size, within several VRAM budgets. One command, no model files needed:

    python scripts/bench_full_size.py FOLDER FOLDER_2 [--budgets unlimited,24GiB,12GiB,8GiB,6GiB] [--modes int8]

The folders take a random model of the real shapes (`full_size_model.py`, 78 GB, made where it is missing). Every run is
a process of its own. Prints one JSON line per run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

from ltx_a2v.hardware.driver import read_memory

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--budgets", default="unlimited,24GiB,12GiB,8GiB,6GiB")
    parser.add_argument("--modes", default="int8")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", default="768x512")
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--slots", type=int, default=0, help="device slots of streamed blocks, if not the default")
    parser.add_argument("--from-file", action="store_true", help="stream from the file, without a copy in host memory")
    parser.add_argument("--checkpoint", type=Path, help="instead of the one in the folder, such as a quantized one")
    parser.add_argument("--no-prompt-cache", action="store_true")
    parser.add_argument("--one", action="store_true", help="one run in this process")
    arguments = parser.parse_args()
    if arguments.one:
        return run(arguments)
    if not list(arguments.folder.glob("ltx-2.3-22b-*.safetensors")):
        subprocess.run(
            [sys.executable, ROOT / "scripts/full_size_model.py", arguments.folder, arguments.other], check=True
        )
    for mode in arguments.modes.split(","):
        for budget in arguments.budgets.split(","):
            given = ["--modes", mode, "--budgets", budget, "--steps", str(arguments.steps), "--size", arguments.size]
            given += ["--frames", str(arguments.frames), "--slots", str(arguments.slots)]
            given += ["--no-prompt-cache"] * arguments.no_prompt_cache + ["--from-file"] * arguments.from_file
            given += ["--checkpoint", arguments.checkpoint] * (arguments.checkpoint is not None)
            subprocess.run([sys.executable, __file__, arguments.folder, arguments.other, "--one", *given])
    return 0


def run(arguments: argparse.Namespace) -> int:
    import faulthandler
    import os

    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the command line does
    import torch

    from ltx_a2v import A2VError, A2VPipeline, GenerationRequest, ModelPaths
    from ltx_a2v.events import Done, PhaseFinished, StepFinished
    from ltx_a2v.hardware.budget import Budget
    from ltx_a2v.planning import plan as plan_module
    from ltx_a2v.settings.loading import LoadOptions

    faulthandler.dump_traceback_later(240, exit=True)
    folder, other = arguments.folder, arguments.other
    paths = ModelPaths(
        arguments.checkpoint or next(folder.glob("ltx-2.3-22b-random.safetensors")),
        next(other.glob("*distilled-lora*.safetensors")),
        next(folder.glob("*spatial-upscaler*.safetensors")),
        other / "gemma",
    )
    width, height = (int(n) for n in arguments.size.split("x"))
    request = GenerationRequest(
        prompt="A robot speaks to the camera.",
        image=ROOT / "examples" / "robot.png",
        audio=ROOT / "examples" / "speech.wav",
        output_path=Path("/tmp/full-size.mp4"),
        width=width,
        height=height,
        num_frames=arguments.frames,
        num_inference_steps=arguments.steps,
    )
    if arguments.slots:
        plan_module.DEFAULT_SLOTS = arguments.slots
    options = LoadOptions(
        arguments.modes,
        budget=Budget(arguments.budgets),
        prompt_cache=not arguments.no_prompt_cache,
        host_memory=0 if arguments.from_file else None,
    )
    said: dict[str, object] = {
        "mode": arguments.modes,
        "budget": arguments.budgets,
        "size": arguments.size,
        "slots": arguments.slots,
    }
    try:
        pipeline = A2VPipeline.open(paths, device="cuda", options=options)
        started = time.perf_counter()
        plan = pipeline.plan(request)
        placement = plan.placements["transformer"]
        said |= {"plan_s": round(time.perf_counter() - started, 2), "resident_blocks": placement.resident_blocks}
        said |= {"home": placement.home, "host_gib": round(plan.host_bytes / 2**30, 1)}
        steps: dict[str, list[float]] = {}
        driver = DriverPeak()
        for event in pipeline.generate(request):
            now = time.perf_counter()
            if isinstance(event, StepFinished):
                torch.cuda.synchronize()
                steps.setdefault(event.phase, []).append(time.perf_counter())
            elif isinstance(event, PhaseFinished):
                sys.stderr.write(f"  {event.phase} {event.seconds:.1f} s {event.allocated_gib:.2f} GiB\n")
            elif isinstance(event, Done):
                said |= event.result.as_json()
        del now
        said["driver_peak_gib"] = driver.stop()
        for phase, times in steps.items():
            gaps = [b - a for a, b in pairwise(times)]
            if gaps:
                middle = sorted(gaps)[len(gaps) // 2]
                said[f"{phase}_step_s"] = {"median": round(middle, 3), "max": round(max(gaps), 3)}
    except A2VError as error:
        said["error"] = str(error)
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    return 0


class DriverPeak:
    """The most of the whole GPU that was in use, CUDA's context and others included, looked at every 20 ms."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return round(self._peak / 2**30, 3)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            memory = read_memory("cuda", None)
            self._peak = max(self._peak, memory.used if memory else 0)


if __name__ == "__main__":
    sys.exit(main())
