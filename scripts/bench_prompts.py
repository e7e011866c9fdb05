"""Times a new prompt: cold, and warm with the text encoder kept in host memory, in each of its modes. One command:

    python scripts/bench_prompts.py FOLDER FOLDER_2 [--modes none,int4,bnb-nf4] [--device cuda]

The folders hold a random model of the real shapes (`ltx-a2v bench synthetic --output FOLDER --second-output FOLDER_2`);
only headers are read of the transformer. Each mode encodes three new pairs of prompts: "cold" reads the files and fills
the copies, "warm" is the last. For a folder written by `ltx-a2v quantize --text-encoder`: `--gemma-root FOLDER --modes
file`. Prints one JSON line per mode: seconds, copies in host memory, and whether cold and warm give the same bits.
The first "resident" time is cold; "streamed" then finds the copies in host memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

PAIRS = (("A robot speaks to the camera.", "blurry"), ("A dog sings.", "low quality"), ("A fox reads.", "grainy"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--modes", default="none,int4,bnb-nf4", help="of the text encoder; file: as the folder is")
    parser.add_argument("--gemma-root", type=Path)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()

    from ltx_a2v.hardware.environment import prepare_libraries

    prepare_libraries()
    from ltx_a2v.checkpoint.paths import ModelPaths

    folder, other = arguments.folder, arguments.other or arguments.folder
    gemma = arguments.gemma_root or next(path.parent for path in sorted(other.glob("*/config.json")))
    paths = ModelPaths(
        next(path for path in sorted(folder.glob("ltx-2*.safetensors")) if not _is_other(path.name)),
        next(other.glob("*distilled-lora*.safetensors")),
        next(folder.glob("*spatial-upscaler*.safetensors")),
        gemma,
    )
    for mode in arguments.modes.split(","):
        sys.stdout.write(json.dumps(measure(paths, None if mode == "file" else mode, arguments.device)) + "\n")
        sys.stdout.flush()
    return 0


def _is_other(name: str) -> bool:
    return "lora" in name or "upscaler" in name


def measure(paths: object, mode: str | None, device: str) -> dict[str, object]:
    import torch

    from ltx_a2v import A2VError, A2VPipeline
    from ltx_a2v.residency.network import Placement
    from ltx_a2v.settings.loading import LoadOptions

    said: dict[str, object] = {"mode": mode or "file", "device": device}
    try:
        options = LoadOptions("int8", text_encoder_quantization=mode, prompt_cache=False)
        pipeline = A2VPipeline.open(paths, device=device, dtype=torch.bfloat16, options=options)  # type: ignore[arg-type]
    except A2VError as error:
        return {**said, "error": str(error)}
    for name, placement in (("resident", Placement("host")), ("streamed", Placement("host", 0))):
        placements = {"text_encoder": placement, "connectors": placement}
        seconds: list[float] = []
        contexts = []
        for pair in (*PAIRS, PAIRS[0]):
            started = time.perf_counter()
            contexts.append(_encode(pipeline, pair, placements))
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds.append(round(time.perf_counter() - started, 3))
        same = all(torch.equal(a, b) for a, b in zip(contexts[0], contexts[-1], strict=True))
        said[name] = {"cold_s": seconds[0], "warm_s": seconds[-1], "all_s": seconds, "same_bits": same}
        said["host_gib"] = round(pipeline.model.host_bytes / 2**30, 2)
    pipeline.release()
    return said


def _encode(pipeline: object, texts: tuple[str, ...], placements: object) -> list[object]:
    import torch

    with torch.inference_mode():
        work = pipeline._prompts.encode(pipeline.model.within(placements), texts)  # type: ignore[attr-defined]
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return [tensor for context in stop.value for tensor in context]


if __name__ == "__main__":
    sys.exit(main())
