"""Figures of the packed model, made through the product: unseen faces and unseen sentences.

python training/evaluate.py --model models/puppet --clips 32
"""

from __future__ import annotations

import argparse
import json
import math
import time
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clips import Clips, draw_clips
from common import CHECKPOINTS, sheet, to_rgb
from faces import BACKGROUNDS, FRAME_RATE, MOUTH_BOX, box_mask, render
from PIL import Image
from sounds import RATE, Sounds, mouth_curves
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest, Guidance, ModelPaths
from ltx_a2v.hardware.budget import Budget
from ltx_a2v.media.sync import Sync, loudness, measure_sync, mouth_opening
from ltx_a2v.settings.loading import LoadOptions

SEED = 555_555


def write_sound(path: Path, sound: Tensor) -> None:
    samples = (sound.clamp(-1, 1) * 32767).round().short().cpu().numpy()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())


def read_video(path: Path) -> Tensor:
    """uint8 [F, H, W, 3]."""
    import av

    with av.open(str(path)) as container:
        return torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))


def said(attributes: Tensor) -> str:
    background, mood, gaze = attributes.tolist()
    parts = [("", "smiling", "sad")[mood], ("looks ahead", "looks left", "looks right")[gaze]]
    parts.append(f"{list(BACKGROUNDS)[background]} background")
    return "A person speaks" + "".join(f", {part}" for part in parts if part) + "."


class Studio:
    def __init__(self, options) -> None:
        self.options, self.folder = options, options.output
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pipeline = A2VPipeline.open(
            ModelPaths.discover(options.model),
            device=options.device,
            options=LoadOptions(transformer_quantization=options.mode, budget=Budget(options.budget)),
        )

    def film(self, name: str, clips: Clips, i: int, sound: Tensor, guidance: Guidance | None, prompt: str) -> Tensor:
        size = self.options.size
        picture, audio, video = (self.folder / f"{name}.{kind}" for kind in ("png", "wav", "mp4"))
        Image.fromarray(to_rgb(clips.render(size, size, slice(i, i + 1), slice(0, 1))[0])[0]).save(picture)
        write_sound(audio, sound)
        extra = {} if guidance is None else {"guidance": guidance}
        request = GenerationRequest(
            prompt=prompt,
            image=picture,
            audio=audio,
            output_path=video,
            width=size,
            height=size,
            num_frames=self.options.frames,
            seed=i,
            num_inference_steps=self.options.steps,
            quality=self.options.quality,
            **extra,
        )
        self.pipeline.run(request)
        return read_video(video)


def identity_psnr(frames: Tensor) -> float:
    """Of the last frame against the first, outside the mouth."""
    height, width = frames.shape[1:3]
    outside = ~box_mask(height, width, MOUTH_BOX, "cpu")
    return psnr(frames[-1].float()[outside], frames[0].float()[outside])


def same_face_psnr(one: Tensor, other: Tensor) -> float:
    """Between two films of one face with different sounds, frame by frame, outside the mouth."""
    height, width = one.shape[1:3]
    outside = ~box_mask(height, width, MOUTH_BOX, "cpu")
    return psnr(one.float()[:, outside], other.float()[:, outside])


def psnr(one: Tensor, other: Tensor) -> float:
    """dB, of values in 0 to 255."""
    return 10 * math.log10(255**2 / max(float((one - other).square().mean()), 1e-3))


def row(sync: Sync) -> str:
    closed = "   -" if sync.closed_in_silence is None else f"{sync.closed_in_silence:.2f}"
    return f"corr {sync.correlation:.3f} lag {sync.lag:+d} closed {closed} movement {sync.movement:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--input", type=Path, default=CHECKPOINTS)
    parser.add_argument("--output", type=Path, default=Path("/tmp/puppet"))
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quality", choices=("standard", "fast"), default="standard")
    parser.add_argument("--mode", default="none", help="of quantization")
    parser.add_argument("--budget", default="auto", help="VRAM budget, such as 30MiB")
    parser.add_argument("--unguided", action="store_true")
    parser.add_argument("--others", type=int, default=4, help="clips for swapped sound and for silence")
    options = parser.parse_args()
    studio = Studio(options)
    unseen = Sounds(options.input / "speech.npz", "cpu", held_out=True)
    clips = draw_clips(unseen, options.clips, options.frames, SEED, only_speech=True)
    guidance = Guidance(cfg=1.0, stg=0.0, stg_blocks=(), modality=1.0, rescale=0.0) if options.unguided else None
    found: dict[str, list] = {"truth": [], "model": [], "identity": [], "identity of truth": []}
    rows, films = [], []
    for i in range(options.clips):
        begun = time.monotonic()
        frames = studio.film(f"clip_{i:02d}", clips, i, clips.sound[i], guidance, said(clips.attributes[i]))
        seconds = time.monotonic() - begun
        truth = torch.from_numpy(to_rgb(clips.render(options.size, options.size, slice(i, i + 1))[0]))
        found["model"].append(measure_sync(frames, clips.sound[i], RATE))
        found["truth"].append(measure_sync(truth, clips.sound[i], RATE))
        found["identity"].append(identity_psnr(frames))
        found["identity of truth"].append(identity_psnr(truth))
        films.append(frames)
        print(
            f"{i:2d} model {row(found['model'][-1])} | truth {row(found['truth'][-1])}"
            f" | identity {found['identity'][-1]:.1f} dB | {seconds:.1f} s",
            flush=True,
        )
        if i < 6:
            rows += [video.numpy()[2 : 2 + 8 * 6 : 6] for video in (truth, frames)]
            sheet(options.output / "sheet.png", rows)
    summary = {"clips": options.clips, "truth": summed(found["truth"]), "model": summed(found["model"])}
    summary["identity"] = float(np.mean(found["identity"]))
    summary["identity of truth"] = float(np.mean(found["identity of truth"]))
    others = min(options.others, options.clips)
    if others:
        summary |= swapped_and_silent(studio, clips, films, guidance, others)
    print(json.dumps(summary, indent=1))
    (options.output / "summary.json").write_text(json.dumps(summary, indent=1))


def summed(syncs: list[Sync]) -> dict[str, float]:
    correlations = [sync.correlation for sync in syncs]
    closed = [sync.closed_in_silence for sync in syncs if sync.closed_in_silence is not None]
    return {
        "mean": float(np.mean(correlations)),
        "worst": float(min(correlations)),
        "lag within 1": float(np.mean([abs(sync.lag) <= 1 for sync in syncs])),
        "mean lag": float(np.mean([sync.lag for sync in syncs])),
        "closed in silence": float(np.mean(closed)) if closed else math.nan,
        "movement": float(np.mean([sync.movement for sync in syncs])),
    }


def drawn_with(clips: Clips, i: int, sound: Tensor, size: int) -> Tensor:
    """uint8 [F, H, W, 3]: clip i with a mouth that follows `sound`; the head moves as it did."""
    opening, width, _ = mouth_curves(sound[None], clips.motion.opening.shape[1])
    motion = replace(clips.motion[slice(i, i + 1)], opening=opening, width=width)
    return torch.from_numpy(to_rgb(render(clips.faces[slice(i, i + 1)], motion, size, size)[0]))


def swapped_and_silent(
    studio: Studio, clips: Clips, films: list[Tensor], guidance: Guidance | None, count: int
) -> dict:
    """Another clip's sound to the same face: the mouth follows that one. Silence: the mouth stays closed."""
    own, other, closed, faces, drawn = [], [], [], [], []
    for i in range(count):
        j = (i + 1) % len(films)
        frames = studio.film(f"swap_{i:02d}", clips, i, clips.sound[j], guidance, said(clips.attributes[i]))
        faces.append(same_face_psnr(frames, films[i]))
        drawn.append(same_face_psnr(*(drawn_with(clips, i, clips.sound[k], studio.options.size) for k in (i, j))))
        mouth = mouth_opening(frames)
        for heard, kept in ((clips.sound[i], own), (clips.sound[j], other)):
            level = loudness(heard, RATE, len(mouth), FRAME_RATE)
            kept.append(float(torch.corrcoef(torch.stack([mouth, level]))[0, 1]))
        silent = studio.film(
            f"silent_{i:02d}", clips, i, torch.zeros_like(clips.sound[i]), guidance, said(clips.attributes[i])
        )
        widest = mouth_opening(films[i]).max().clamp(min=0.01)
        opening = mouth_opening(silent)[8:] - mouth_opening(films[i]).quantile(0.02)
        closed.append(float((opening < 0.15 * widest).float().mean()))
    return {
        "swapped: correlation with the sound given": float(np.mean(other)),
        "swapped: correlation with the sound before": float(np.mean(own)),
        "swapped: same face, dB": float(np.mean(faces)),
        "swapped: same face in the drawn truth, dB": float(np.mean(drawn)),
        "silence: closed": float(np.mean(closed)),
        "silence: closed, each": closed,
    }


if __name__ == "__main__":
    main()
