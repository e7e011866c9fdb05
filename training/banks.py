"""Banks of latents that the transformer learns from: painted, encoded and written in shards until the time is over.

    python training/banks.py --minutes 5 --output /dev/shm/banks

Every shard has `rows` clips of each combination of background, mood and gaze, of one size. The transformer's training
reads shards while this goes on, best on another GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

import fast_vae
import torch
from audio_vae import mel_of
from clips import draw_clips
from common import Clock, arguments, load, save
from config import MODEL
from faces import BACKGROUNDS, Motion, render
from sounds import Sounds
from torch import Tensor

from ltx_a2v.networks.video_vae import VideoEncoder

COMBINATIONS = list(product(range(len(BACKGROUNDS)), range(3), range(3)))
FRAMES = 121


@dataclass(frozen=True)
class Kind:
    """Clips of one size: height, width, clips of each combination in a shard, and how often it is made."""

    height: int
    width: int
    rows: int
    share: float
    capacity: int
    """Clips of each combination that the training holds at most."""

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}"


KINDS = (
    Kind(128, 128, 8, 0.28, 480),
    Kind(256, 256, 2, 0.50, 96),
    Kind(128, 192, 4, 0.06, 48),
    Kind(192, 128, 4, 0.06, 48),
    Kind(256, 384, 1, 0.10, 12),
)
TINY = (Kind(64, 64, 1, 1.0, 4),)


def statistics_of(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return tensors["latents_mean"], tensors["latents_std"]


def build_encoder(folder, device) -> VideoEncoder:
    tensors = load(folder / "video_vae.safetensors", device)
    encoder = VideoEncoder(MODEL).to(device).requires_grad_(False)
    encoder.encoder.load_state_dict(
        {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    )
    encoder.latents_mean.copy_(tensors["latents_mean"])
    encoder.latents_std.copy_(tensors["latents_std"])
    return encoder


@torch.no_grad()
def encode(encoder: VideoEncoder, pixels: Tensor) -> Tensor:
    """[B, 3, F, H, W] -> normalised [B, F', H', W', 128] in bfloat16."""
    dtype = torch.bfloat16 if pixels.is_cuda else torch.float32
    latent = fast_vae.encode(encoder.encoder, pixels.to(dtype)).float()
    return ((latent - encoder.latents_mean) / encoder.latents_std).bfloat16()


@torch.no_grad()
def make_shard(kind: Kind, encoder: VideoEncoder, sounds: Sounds, frames: int, seed: int) -> dict[str, Tensor]:
    """`latents` [combinations, rows, F', H', W', 128], `mel` [combinations, rows, T, 64], and a single picture of each
    clip, `picture` [combinations, rows, H', W', 128], that is frame `picture_at`."""
    attributes = torch.tensor([c for c in COMBINATIONS for _ in range(kind.rows)])
    clips = draw_clips(sounds, len(attributes), frames, seed, attributes=attributes)
    step = max(1, 4 * 128 * 128 // (kind.height * kind.width))
    latents = [
        encode(encoder, clips.render(kind.height, kind.width, slice(i, i + step)))
        for i in range(0, len(attributes), step)
    ]
    at = torch.randint(1, frames, (len(attributes), 1), generator=torch.Generator().manual_seed(seed)).to(sounds.device)
    then = Motion(**{field.name: getattr(clips.motion, field.name).gather(1, at) for field in fields(Motion)})
    step *= 16
    pictures = [
        encode(encoder, render(clips.faces[rows], then[rows], kind.height, kind.width))[:, 0]
        for rows in (slice(i, i + step) for i in range(0, len(attributes), step))
    ]
    found = {
        "latents": torch.cat(latents),
        "mel": mel_of(clips.sound)[:, 0].half(),
        "picture": torch.cat(pictures),
        "picture_at": at[:, 0].float(),
    }
    return {name: tensor.unflatten(0, (len(COMBINATIONS), kind.rows)) for name, tensor in found.items()}


def main() -> None:
    options = arguments(__doc__, minutes=5).parse_args()
    torch.backends.cudnn.benchmark = True
    encoder = build_encoder(options.input, options.device)
    sounds = Sounds(options.input / "speech.npz", options.device)
    kinds, frames = (TINY, 9) if options.tiny else (KINDS, FRAMES)
    clock, spent = Clock(options.minutes, steps=1 if options.tiny else None), [0.0] * len(kinds)
    while clock.passed < 1:
        # the kind that is furthest behind its share of the time
        i = min(range(len(kinds)), key=lambda k: spent[k] / kinds[k].share)
        begun = clock.elapsed
        shard = make_shard(kinds[i], encoder, sounds, frames, options.seed * 100_000 + clock.count)
        save(options.output / f"{kinds[i].name}_{clock.count:05d}.safetensors", shard)
        clock.count += 1
        spent[i] += clock.elapsed - begun
    print(
        f"banks: {clock.count} shards in {clock.elapsed:.0f} s",
        {k.name: round(s) for k, s in zip(kinds, spent, strict=True)},
    )


if __name__ == "__main__":
    main()
