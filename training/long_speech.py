"""Whether a long video keeps its face and its sync: a chain of sentences, made in windows, through the product.

    python training/long_speech.py --model models/puppet --seconds 60 [--quality fast] [--window-frames 241]

Prints a line of JSON per window: the memory of the process as it begins. Then one per part of `--part` seconds: how the
mouth follows the sound, PSNR against the picture outside the mouth, and the distance of the mean colour to the first
part. At last the joins: the difference of neighbouring frames, over the median of all others.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import psnr, read_video, write_sound
from faces import MOUTH_BOX, box_mask
from PIL import Image
from sounds import RATE, sentence, speak

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.events import WindowStarted
from ltx_a2v.media.sync import measure_sync

VOICE, SPEED, PITCH = "en-gb+m7", 150, 45
"""One that training never heard."""
PAUSE = (0.2, 0.9)
"""Seconds between two sentences."""


def speech(seconds: float, seed: int) -> torch.Tensor:
    chosen = random.Random(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        parts += [speak(sentence(chosen), VOICE, SPEED, PITCH), np.zeros(round(chosen.uniform(*PAUSE) * RATE), "f")]
    return torch.from_numpy(np.concatenate(parts)[: round(seconds * RATE)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("long"))
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "examples" / "face.png")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--part", type=float, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quality", choices=("standard", "fast"), default="standard")
    parser.add_argument("--window-frames", type=int, default=241)
    parser.add_argument("--window-overlap", type=int, default=17)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sound = speech(options.seconds, options.seed)
    write_sound(options.output / "speech.wav", sound)
    request = GenerationRequest(
        prompt="A person speaks.",
        audio=options.output / "speech.wav",
        image=options.picture,
        output_path=options.output / "long.mp4",
        width=options.size,
        height=options.size,
        num_inference_steps=options.steps,
        quality=options.quality,
        window_frames=options.window_frames,
        window_overlap=options.window_overlap,
    )
    pipeline = A2VPipeline.open(ModelPaths.discover(options.model), device="cpu")
    fitted = pipeline._fit(request)  # type: ignore[attr-defined]
    windows, lengths = fitted.windows, {"all": fitted.num_frames, "one window": options.window_frames}
    plans = {name: pipeline.plan_for(request.model_copy(update={"num_frames": n})) for name, n in lengths.items()}
    planned = {name: round(plan.peak / 2**20) for name, plan in plans.items()}
    print(json.dumps({"windows": len(windows), "planned_mib": planned}), flush=True)
    begun = time.monotonic()
    for event in pipeline.generate(request):
        if isinstance(event, WindowStarted):
            print(json.dumps({"window": event.window, **memory(begun)}), flush=True)
    print(json.dumps({"written": True, **memory(begun)}), flush=True)
    judge(read_video(request.output_path), sound, options.part, [window.written_from for window in windows[1:]])
    sheet(request.output_path)


def memory(begun: float) -> dict[str, float]:
    """Of this process, now and at most since it began."""
    status = Path("/proc/self/status").read_text()
    now, most = (int(re.search(rf"{name}:\s*(\d+)", status)[1]) // 1024 for name in ("VmRSS", "VmHWM"))
    return {"seconds": round(time.monotonic() - begun, 1), "rss_mib": now, "peak_mib": most}


def judge(frames: torch.Tensor, sound: torch.Tensor, part: float, joins: list[int]) -> None:
    for line in parts_of(frames, sound, part):
        print(json.dumps(line), flush=True)
    print(json.dumps(seams_of(frames, joins)))


def parts_of(frames: torch.Tensor, sound: torch.Tensor, part: float, frame_rate: float = 24.0) -> list[dict[str, Any]]:
    """The figures of every `part` seconds of a video, uint8 [F, H, W, 3]."""
    outside = ~box_mask(*frames.shape[1:3], MOUTH_BOX, "cpu")
    picture = frames[0].float()
    size, first, lines = round(part * frame_rate), None, []
    for start in range(0, len(frames) - size // 2, size):
        shown = frames[start : start + size]
        heard = sound[round(start / frame_rate * RATE) : round((start + len(shown)) / frame_rate * RATE)]
        sync = measure_sync(shown, heard, RATE, frame_rate)
        likeness = [psnr(frame.float()[outside], picture[outside]) for frame in shown[::4]]
        colour = shown.float().mean(dim=(0, 1, 2))
        first = colour if first is None else first
        line = {
            "from": round(start / frame_rate, 1),
            "correlation": round(sync.correlation, 3),
            "lag": sync.lag,
            "closed": sync.closed_in_silence and round(sync.closed_in_silence, 2),
            "identity_db": round(float(np.mean(likeness)), 2),
            "colour": round(float((colour - first).abs().max()), 2),
        }
        lines.append(line)
    return lines


def seams_of(frames: torch.Tensor, joins: Sequence[int], pixels: torch.Tensor | None = None) -> dict[str, Any]:
    """The differences of neighbouring frames in the ten frames at each join, over the median elsewhere; of the `pixels`
    alone, bool [H, W], where they are given."""
    shown = frames if pixels is None else frames[:, pixels]
    changes = torch.stack([(new.float() - old.float()).abs().mean() for old, new in pairwise(shown)])
    at_joins = [changes[max(at - 1, 0) : at + 9] for at in joins]
    elsewhere = changes.clone()
    for at in joins:
        elsewhere[max(at - 1, 0) : at + 9] = float("nan")
    usual, strong = elsewhere.nanmedian(), elsewhere.nanquantile(0.95)
    seams = [
        {"frame": at, "mean": round(float(c.mean() / usual), 2), "most": round(float(c.max() / usual), 2)}
        for at, c in zip(joins, at_joins, strict=True)
    ]
    return {"usual": round(float(usual), 2), "95%": round(float(strong / usual), 2), "seams": seams}


def sheet(video: Path, columns: int = 12) -> None:
    frames = read_video(video)
    shown = frames[torch.linspace(0, len(frames) - 1, columns * 4).long()].numpy()[:, ::2, ::2]
    rows = [np.concatenate(shown[i : i + columns], 1) for i in range(0, len(shown), columns)]
    Image.fromarray(np.concatenate(rows)).save(video.with_suffix(".png"))


if __name__ == "__main__":
    main()
