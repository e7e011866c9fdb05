"""Whether joins get smoother when stage 2 refines all windows of a long video together. An experiment, no product code.

    python training/joint_refinement.py --model models/puppet --seconds 24 --size 128 --window-frames 57 [--seed 1]

Stage 1 is made window by window, as the product makes it. Stage 2 then works on one latent of the whole video with one
noise. At each of its steps every window predicts its own part without noise, with its own sound and the picture; the
predictions are blended where windows overlap, and one Euler step is taken on the whole.

    window 0    0 1 2 3 4 5 6 7               its latent frames; a window's latent frame j is the whole's start / 8 + j
    window 1              0 1 2 3 4 5 6 7     0 and 1 count nothing: 0 stands for one frame, and not for eight; the rest
                              . / - - - -     of the overlap rises

A window begins stage 1 from the pixels that the one before hands on: of its own, sequential stage 2 (`--hand-over
stage_2`: all videos have the product's stage 1), or of the upsampled stage 1 (`upsampled`: faster, but blurred).

Writes `sequential.mp4`, as the product makes it; `joint.mp4`; and `blended.mp4`, the latents of the sequential stage 2
blended in the same way and decoded at once. Unless `--encoded`, they are lossless: each keyframe of H.264 is a jump,
and every window begins with one. Prints the figures of each as JSON, and shows the frames around joins in `joins.png`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import sheet
from evaluate import read_video, write_sound
from faces import MOUTH_BOX, box_mask
from long_speech import parts_of, seams_of, speech
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths, windows
from ltx_a2v import pipeline as method
from ltx_a2v.diffusion.guidance import UNGUIDED
from ltx_a2v.diffusion.sampler import _euler_step
from ltx_a2v.diffusion.schedule import stage_2_sigmas
from ltx_a2v.events import PhaseFinished
from ltx_a2v.fitting import FittedRequest, VideoShape, shape_of_window
from ltx_a2v.media import video
from ltx_a2v.media.join import join
from ltx_a2v.media.sound.prepare import AudioClip
from ltx_a2v.model.in_use import ModelInUse
from ltx_a2v.networks.text import Context
from ltx_a2v.phases import PhaseLog, Result, Work
from ltx_a2v.windows import STEP, Window, statistics_of, with_colours
from ltx_a2v.work_dir import open_work_dir

PICTURE = Path(__file__).parents[1] / "examples" / "face.png"


@dataclass(frozen=True)
class Take:
    """What the joint stage 2 needs of a window."""

    window: Window
    shape: VideoShape
    conditions: method.Conditions
    upsampled: Tensor
    """The result of stage 1 at full size, [1, C, F, H, W]."""
    refined: Tensor
    """The result of the sequential stage 2."""

    @property
    def place(self) -> slice:
        """The window's latent frames in those of the whole video."""
        first = self.window.start // STEP
        return slice(first, first + self.upsampled.shape[2])


@torch.inference_mode()
def main() -> None:
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    windows.CROSSFADE = options.crossfade
    if not options.encoded:
        video.X264 = {"qp": "0", "preset": "ultrafast"}
    sound = speech(options.seconds, options.seed)
    write_sound(options.output / "speech.wav", sound)
    request = GenerationRequest(
        prompt="A person speaks.",
        audio=options.output / "speech.wav",
        image=PICTURE,
        output_path=options.output / "sequential.mp4",
        width=options.size,
        height=options.size,
        quality="fast",
        seed=options.seed,
        window_frames=options.window_frames,
        window_overlap=options.window_overlap,
    )
    pipeline = A2VPipeline.open(ModelPaths.discover(options.model), device="cpu")
    plan, fitted = pipeline.plan(request), pipeline._fit(request)
    model, log = pipeline.model.within(plan.placements), PhaseLog(pipeline.device)
    seconds: dict[str, Counter[str]] = {name: Counter() for name in ("sequential", "joint", "blended")}

    contexts = finish(method.encode_prompts(model, pipeline._prompts, fitted), seconds["sequential"])
    clip, takes = sequential(model, fitted, contexts, log, options.hand_over, seconds["sequential"])
    if not options.only_sequential:
        latent = finish(log.phase("stage_2", lambda: refine(model, takes, options.seed)), seconds["joint"])
        parts = {"joint": [latent[:, :, take.place] for take in takes], "blended": [take.refined for take in takes]}
        for name, latents in parts.items():
            whole = {"stage_2": blended(takes, with_equal_colours(latents))}
            to_file = request.model_copy(update={"output_path": options.output / f"{name}.mp4"})
            writing = method.write_video(model, replace(fitted, request=to_file), whole, clip, None)
            finish(log.phase("decode", lambda: writing), seconds[name])  # noqa: B023

    joins = [window.start + window.overlap - STEP for window in fitted.windows[1:]]
    made = {name: options.output / f"{name}.mp4" for name, spent in seconds.items() if spent}
    videos = [report(name, path, sound, options.part, joins, seconds[name]) for name, path in made.items()]
    shown_joins(options.output / "joins.png", videos, joins)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("joint"))
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--part", type=float, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--window-frames", type=int, default=57)
    parser.add_argument("--window-overlap", type=int, default=17)
    parser.add_argument("--crossfade", type=int, default=windows.CROSSFADE, help="frames, of the sequential windows")
    parser.add_argument("--hand-over", choices=("stage_2", "upsampled"), default="stage_2")
    parser.add_argument("--only-sequential", action="store_true")
    parser.add_argument("--encoded", action="store_true", help="write the videos as the product does, and not lossless")
    return parser.parse_args()


def sequential(
    model: ModelInUse,
    fitted: FittedRequest,
    contexts: tuple[Context, Context],
    log: PhaseLog,
    hand_over: str,
    seconds: Counter[str],
) -> tuple[AudioClip, list[Take]]:
    """Write the video of sequential windows, and return the sound and what was made on the way."""
    takes, before = list[Take](), None
    heard = finish(method.load_sound(fitted, model.config), seconds)
    with open_work_dir(None, "", fitted.request.prompt, fitted.request.output_path) as work:
        for window in fitted.windows:
            shape = shape_of_window(fitted.video, window)
            shown = method.shown_to(fitted, window, before)
            latents = finish(method.make_window(model, fitted, window, contexts, heard, shown, log), seconds)
            latents["upsampled"] = method.upsample_latent(model, latents["stage_1"])
            mel = method.log_mel_of(heard, window, shape, model.config)
            sound = method.encode_sound(model, mel, shape.audio_tokens)
            # the latent of a window's first frame alone is not in the whole video's, so it is held
            first = before and replace(before, frames=before.frames[:1])
            pictures = method.encode_pictures(model, method.shown_to(fitted, window, first))
            conditions = method.Conditions(*contexts, sound, pictures)
            takes.append(Take(window, shape, conditions, latents["upsampled"], latents["stage_2"]))
            writing = method.write_window(model, fitted, window, latents[hand_over], before, work)
            before = finish(log.phase("decode", lambda: writing), seconds)  # noqa: B023
        segments = [work.segment(window) for window in fitted.windows]
        join(segments, fitted.request.output_path, fitted.video.frame_rate, heard.clip)
    return heard.clip, takes


def finish(work: Work[Result], seconds: Counter[str]) -> Result:
    """Do the work to its end, and add up the seconds of its phases."""
    while True:
        try:
            event = next(work)
        except StopIteration as done:
            return done.value
        if isinstance(event, PhaseFinished):
            seconds[event.phase] += event.seconds


def refine(model: ModelInUse, takes: Sequence[Take], seed: int) -> Work[Tensor]:
    """-> the latent of the whole video, [1, C, F, H, W]."""
    sigmas = stage_2_sigmas(model.config.version.schedule)
    start = blended(takes, [take.upsampled for take in takes])
    noise = torch.Generator(model.device).manual_seed(seed)
    drawn = torch.randn(start.shape, generator=noise, device=start.device, dtype=start.dtype)
    latent = torch.lerp(start, drawn, sigmas[0].item())
    with model.transformer(distilled=True) as transformer:
        for sigma, following in pairwise(sigmas):
            # one step to sigma 0, from a latent that has its noise, is the prediction without noise
            step = method.Stage("stage_2", 1, torch.stack([sigma, torch.zeros(())]), 0.0, UNGUIDED, distilled=True)
            predicted = []
            for take in takes:
                part = latent[:, :, take.place]
                made = method.denoise_stage(model, transformer, step, take.shape, take.conditions, part, None)
                predicted.append((yield from made))
            latent = _euler_step(latent, blended(takes, predicted), sigma, following)
    return latent


def with_equal_colours(parts: Sequence[Tensor]) -> list[Tensor]:
    """Later windows with their colours moved to those of the first, as the product moves them."""
    colours = statistics_of(parts[0])
    return [parts[0], *(with_colours(part, colours, method.COLOURS_HELD) for part in parts[1:])]


def blended(takes: Sequence[Take], parts: Sequence[Tensor]) -> Tensor:
    """The windows' parts [1, C, F, H, W] as one. After its overlap, a later window replaces the one before."""
    whole = parts[0].new_zeros(*parts[0].shape[:2], takes[-1].place.stop, *parts[0].shape[3:])
    for take, part in zip(takes, parts, strict=True):
        place = whole[:, :, take.place]
        place.copy_(torch.lerp(place, part, share_of(take.window, part.shape[2])) if take.window.overlap else part)
    return whole


def share_of(window: Window, frames: int) -> Tensor:
    """[frames, 1, 1]: how much each latent frame of a later window counts against the window before."""
    rising = max((window.overlap - 1) // STEP - 1, 0)
    share = torch.ones(frames)
    share[:2] = 0
    share[2 : 2 + rising] = torch.arange(1, rising + 1) / (rising + 1)
    return share.view(-1, 1, 1)


def report(name: str, path: Path, sound: Tensor, part: float, joins: Sequence[int], seconds: Counter[str]) -> Tensor:
    """Print the figures of the video, and return its frames."""
    frames = read_video(path)
    outside = ~box_mask(*frames.shape[1:3], MOUTH_BOX, "cpu")
    parts = parts_of(frames, sound, part)
    line = {
        name: {key: [part[key] for part in parts] for key in ("correlation", "lag", "closed", "identity_db", "colour")}
    }
    for kind, pixels in (("seams", None), ("seams outside the mouth", outside)):
        found = seams_of(frames, joins, pixels)["seams"]
        means = [seam["mean"] for seam in found]
        step = round(float(np.median([seam["most"] for seam in found])), 2)
        line[kind] = {"median": round(float(np.median(means)), 2), "largest": max(means), "largest step": step}
        line[kind] |= {"above 1.5": sum(mean > 1.5 for mean in means), "joins": len(means)}
    print(json.dumps({**line, "seconds": {key: round(value, 1) for key, value in seconds.items()}}), flush=True)
    return frames


def shown_joins(path: Path, videos: Sequence[Tensor], joins: Sequence[int], most: int = 4) -> None:
    """Twelve frames around the joins where the first video changes the most, a row for each video."""
    changes = {at: seam["mean"] for at, seam in zip(joins, seams_of(videos[0], joins)["seams"], strict=True)}
    chosen = sorted(sorted(changes, key=changes.__getitem__)[-most:])
    sheet(path, [frames[at - 2 : at + 10].numpy() for at in chosen for frames in videos])


if __name__ == "__main__":
    main()
