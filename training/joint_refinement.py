"""Whether joins get smoother when stage 2 refines all windows of a long video together. An experiment, no product code.

    python training/joint_refinement.py --model models/puppet --seconds 24 --size 128 --window-frames 57 [--seed 1]

Stage 1 is made window by window, as the product makes it. Stage 2 then works on one latent of the whole video with one
noise. At each of its steps every window predicts its own part without noise, with its own sound and the picture; the
predictions are blended where windows overlap, and one Euler step is taken on the whole.

    window 0    0 1 2 3 4 5 6 7               its latent frames; a window's latent frame j is the whole's start / 8 + j
    window 1              0 1 2 3 4 5 6 7     0 and 1 count nothing: 0 stands for one frame, and not for eight; the rest
                              . / - - - -     of the overlap rises

Window i+1 begins stage 1 from the pixels that window i hands on: those of its own, sequential stage 2
(`--hand-over stage_2`: what the product does, so both videos have the same stage 1, and only stage 2 differs), or those
of the upsampled stage 1 (`upsampled`: saves the sequential stage 2, but blurred pixels are handed on).

Writes both videos, and the frames around the widest join of each as `joins.png`: sequential above joint. Prints a line
of JSON for each: seconds, sync per part, identity, colour, and the frame differences at joins over those elsewhere, of
all pixels and of those outside the mouth.
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
from ltx_a2v.diffusion.guidance import UNGUIDED
from ltx_a2v.diffusion.sampler import _euler_step
from ltx_a2v.diffusion.schedule import stage_2_sigmas
from ltx_a2v.events import PhaseFinished
from ltx_a2v.fitting import FittedRequest, VideoShape, shape_of_window
from ltx_a2v.media.join import join
from ltx_a2v.media.sound.prepare import AudioClip
from ltx_a2v.model.in_use import ModelInUse
from ltx_a2v.phases import PhaseLog, Result, Work
from ltx_a2v.pipeline import (
    COLOURS_HELD,
    Conditions,
    Stage,
    denoise_stage,
    encode_pictures,
    encode_prompts,
    encode_sound,
    load_sound,
    log_mel_of,
    make_window,
    shown_to,
    upsample_latent,
    write_video,
    write_window,
)
from ltx_a2v.prompts.encoder import PromptEncoder
from ltx_a2v.windows import STEP, HandedOn, Window, statistics_of, with_colours
from ltx_a2v.work_dir import open_work_dir


@dataclass(frozen=True)
class Take:
    """What the joint stage 2 needs of a window."""

    window: Window
    shape: VideoShape
    conditions: Conditions
    upsampled: Tensor
    """The result of stage 1 at full size, [1, C, F, H, W]."""

    @property
    def place(self) -> slice:
        """The window's latent frames in those of the whole video."""
        first = self.window.start // STEP
        return slice(first, first + self.upsampled.shape[2])


def main() -> None:
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    windows.CROSSFADE = options.crossfade
    sound = speech(options.seconds, options.seed)
    write_sound(options.output / "speech.wav", sound)
    request = GenerationRequest(
        prompt="A person speaks.",
        audio=options.output / "speech.wav",
        image=options.picture,
        output_path=options.output / "sequential.mp4",
        width=options.size,
        height=options.size,
        quality="fast",
        seed=options.seed,
        window_frames=options.window_frames,
        window_overlap=options.window_overlap,
    )
    pipeline = A2VPipeline.open(ModelPaths.discover(options.model), device="cpu")
    plan = pipeline.plan(request)
    fitted, model = pipeline._fit(request), pipeline.model.within(plan.placements)
    joins = [window.start + window.overlap - STEP for window in fitted.windows[1:]]
    made: dict[str, Tensor] = {}

    seconds: Counter[str] = Counter()
    clip, takes = sequential(model, pipeline._prompts, fitted, options.hand_over, options.hold, seconds)
    made["sequential"] = report("sequential", request.output_path, sound, options.part, joins, seconds)
    if not options.only_sequential:
        before = sum(seconds.values()) - (seconds["stage_2"] if options.hand_over == "upsampled" else 0)
        seconds = Counter({"before": before})
        path = options.output / "joint.mp4"
        joint(model, fitted, takes, clip, path, seconds)
        made["joint"] = report("joint", path, sound, options.part, joins, seconds)
    shown_joins(options.output / "joins.png", list(made.values()), joins)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("joint"))
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "examples" / "face.png")
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--part", type=float, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--window-frames", type=int, default=57)
    parser.add_argument("--window-overlap", type=int, default=17)
    parser.add_argument("--crossfade", type=int, default=windows.CROSSFADE, help="frames, of the sequential windows")
    parser.add_argument("--hand-over", choices=("stage_2", "upsampled"), default="stage_2")
    parser.add_argument("--hold", type=int, default=1, help="frames at a window's start held in the joint stage 2")
    parser.add_argument("--only-sequential", action="store_true")
    return parser.parse_args()


@torch.inference_mode()
def sequential(
    model: ModelInUse,
    prompts: PromptEncoder,
    fitted: FittedRequest,
    hand_over: str,
    hold: int,
    seconds: Counter[str],
) -> tuple[AudioClip, list[Take]]:
    """Write the video of sequential windows, and return the sound and what was made on the way."""
    log, takes, before = PhaseLog(model.device), list[Take](), None
    heard = finish(log.phase("load_audio", lambda: load_sound(fitted, model.config)), seconds)
    contexts = finish(log.phase("encode_prompt", lambda: encode_prompts(model, prompts, fitted)), seconds)
    with open_work_dir(None, "", fitted.request.prompt, fitted.request.output_path) as work:
        for window in fitted.windows:
            shape = shape_of_window(fitted.video, window)
            shown = shown_to(fitted, window, before)
            latents = finish(make_window(model, fitted, window, contexts, heard, shown, log), seconds)
            latents["upsampled"] = upsample_latent(model, latents["stage_1"])
            encoded = encode_sound(model, log_mel_of(heard, window, shape, model.config), shape.audio_tokens)
            pictures = encode_pictures(model, shown_to(fitted, window, first_frames(before, hold)))
            takes.append(Take(window, shape, Conditions(*contexts, encoded, pictures), latents["upsampled"]))
            writing = log.phase("decode", lambda: write_window(model, fitted, window, latents[hand_over], before, work))  # noqa: B023
            before = finish(writing, seconds)
        segments = [work.segment(window) for window in fitted.windows]
        join(segments, fitted.request.output_path, fitted.video.frame_rate, heard.clip)
    return heard.clip, takes


def first_frames(handed_on: HandedOn | None, count: int) -> HandedOn | None:
    return replace(handed_on, frames=handed_on.frames[:count]) if handed_on and count else None


def finish(work: Work[Result], seconds: Counter[str]) -> Result:
    """Do the work to its end, and add up the seconds of its phases."""
    while True:
        try:
            event = next(work)
        except StopIteration as done:
            return done.value
        if isinstance(event, PhaseFinished):
            seconds[event.phase] += event.seconds


@torch.inference_mode()
def joint(
    model: ModelInUse,
    fitted: FittedRequest,
    takes: Sequence[Take],
    clip: AudioClip,
    path: Path,
    seconds: Counter[str],
) -> None:
    """Write the video whose windows stage 2 refines together."""
    log = PhaseLog(model.device)
    latent = finish(log.phase("stage_2", lambda: refine(model, takes, fitted.request.seed)), seconds)
    colours = statistics_of(latent[:, :, takes[0].place])
    coloured = [with_colours(latent[:, :, take.place], colours, COLOURS_HELD) for take in takes[1:]]
    latents = {"stage_2": blended(takes, [latent[:, :, takes[0].place], *coloured])}
    elsewhere = replace(fitted, request=fitted.request.model_copy(update={"output_path": path}))
    finish(log.phase("decode", lambda: write_video(model, elsewhere, latents, clip, None)), seconds)


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
            step = Stage("stage_2", 1, torch.stack([sigma, torch.zeros(())]), 0.0, UNGUIDED, distilled=True)
            predicted = []
            for take in takes:
                part = latent[:, :, take.place]
                made = denoise_stage(model, transformer, step, take.shape, take.conditions, part, None)
                predicted.append((yield from made))
            latent = _euler_step(latent, blended(takes, predicted), sigma, following)
    return latent


def blended(takes: Sequence[Take], parts: Sequence[Tensor]) -> Tensor:
    """The windows' parts [1, C, F, H, W] as one. After its overlap, a later window replaces the one before."""
    whole = parts[0].new_empty(*parts[0].shape[:2], takes[-1].place.stop, *parts[0].shape[3:])
    for take, part in zip(takes, parts, strict=True):
        place = whole[:, :, take.place]
        place.copy_(torch.lerp(place, part, share_of(take.window, part.shape[2])) if take.window.overlap else part)
    return whole


def share_of(window: Window, frames: int) -> Tensor:
    """[frames, 1, 1]: how much each latent frame of a later window counts against the window before."""
    shared = (window.overlap - 1) // STEP + 1
    rising = max(shared - 2, 0)
    share = torch.ones(frames)
    share[:2] = 0
    share[2 : 2 + rising] = torch.arange(1, rising + 1) / (rising + 1)
    return share.view(-1, 1, 1)


def report(name: str, video: Path, sound: Tensor, part: float, joins: Sequence[int], seconds: Counter[str]) -> Tensor:
    """Print the figures of a video, and return its frames."""
    frames = read_video(video)
    outside = ~box_mask(*frames.shape[1:3], MOUTH_BOX, "cpu")
    parts = parts_of(frames, sound, part)
    line = {
        name: {key: [part[key] for part in parts] for key in ("correlation", "lag", "closed", "identity_db", "colour")}
    }
    for pixels, chosen in (("all", None), ("outside the mouth", outside)):
        seams = [seam["mean"] for seam in seams_of(frames, joins, chosen)["seams"]]
        line[f"seams, {pixels}"] = {
            "median": round(float(np.median(seams)), 2),
            "largest": max(seams),
            "above 1.5": sum(seam > 1.5 for seam in seams),
            "joins": len(seams),
        }
    print(json.dumps({**line, "seconds": {key: round(value, 1) for key, value in seconds.items()}}), flush=True)
    return frames


def shown_joins(path: Path, videos: Sequence[Tensor], joins: Sequence[int], most: int = 4) -> None:
    """Twelve frames around the joins where the first video changes the most, a row for each video."""
    changes = {at: seam["mean"] for at, seam in zip(joins, seams_of(videos[0], joins)["seams"], strict=True)}
    chosen = sorted(sorted(changes, key=changes.__getitem__)[-most:])
    sheet(path, [frames[at - 2 : at + 10].numpy() for at in chosen for frames in videos])


if __name__ == "__main__":
    main()
