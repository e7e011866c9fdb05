"""The audio VAE's encoder.

    python training/audio_vae.py --minutes 1

Trained with two linear readers, which are thrown away: one must give the spectrogram back, one the mouth's opening and
width, so that both lie open in the latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import Average, Clock, arguments, curve, load, materialise, rate, save
from config import MODEL
from faces import FRAME_RATE
from optim import Graphed, Optimizer
from sounds import Sounds, mouth_curves
from torch import Tensor, nn

from ltx_a2v.media.sound.mel import log_mel
from ltx_a2v.networks.audio_vae import AudioEncoder, pack_audio

SECONDS = 4.0
FRAMES = int(SECONDS * FRAME_RATE) + 1


def mel_of(sound: Tensor) -> Tensor:
    """[B, n] -> [B, 2, T, 64], as the product makes it of a mono file."""
    return log_mel(sound)[0][:, None].expand(-1, 2, -1, -1)


def tokens_of(encoder: AudioEncoder, mel: Tensor, count: int) -> Tensor:
    """Normalised latent as tokens [B, count, 128]; what lacks is zero."""
    packed = pack_audio(encoder.encoder(mel).chunk(2, dim=1)[0]).float()
    packed = (packed - encoder.latents_mean) / encoder.latents_std
    return F.pad(packed[:, :count], (0, 0, 0, max(0, count - packed.shape[1])))


class Readers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spectrogram = nn.Linear(128, 4 * 64)
        self.mouth = nn.Conv1d(128, 2, 3, padding=1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.spectrogram(tokens), self.mouth(tokens.mT).mT


def targets(sound: Tensor, count: int) -> Tensor:
    """Opening and width at the latent's 25 steps a second: [B, count, 2]."""
    opening, width, _ = mouth_curves(sound, FRAMES)
    both = torch.stack([opening, width], dim=1)
    at = (torch.arange(count, device=sound.device) * FRAME_RATE / 25).clamp(max=FRAMES - 1.001)
    low = at.long()
    return torch.lerp(both[..., low], both[..., low + 1], at - low).mT


def main() -> None:
    options = arguments(__doc__, minutes=1).parse_args()
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    encoder = materialise(AudioEncoder(MODEL), device).train()
    if options.resume:
        encoder.load_state_dict(load(options.resume, device))
    readers = Readers().to(device)
    named = {f"encoder.{n}": p.requires_grad_(True) for n, p in encoder.encoder.named_parameters()}
    named |= {f"readers.{n}": p for n, p in readers.named_parameters()}
    optimizer = Optimizer(named, ("conv_in", "conv_out", "readers"), 2e-3, 1e-3)
    average = Average(list(named.values()))
    sounds, generator = Sounds(options.input / "speech.npz", device), torch.Generator(device).manual_seed(options.seed)
    count, batch = 100, 4 if options.tiny else 64

    def draw() -> tuple[Tensor, Tensor]:
        sound = sounds.draw(batch, FRAMES / FRAME_RATE, generator)
        return mel_of(sound).contiguous(), targets(sound, count)

    mel, mouth = draw()

    def step() -> Tensor:
        for parameter in named.values():
            parameter.grad = None
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            packed = pack_audio(encoder.encoder(mel).chunk(2, dim=1)[0]).float()[:, :count]
        noised = packed + 0.1 * torch.randn_like(packed)
        spectrogram, read = readers(noised)
        wanted = F.pad(mel[:, 0], (0, 0, 3, 0), mode="constant", value=-11.5)[:, : 4 * count].unflatten(1, (count, 4))
        again = (spectrogram - wanted.flatten(2)).square().mean()
        told = (read - mouth).square().mean()
        (0.02 * again + 4 * told + 1e-3 * packed.square().mean()).backward()
        optimizer.step()
        average.update()
        return torch.stack([again, told]).detach()

    graphed, clock = Graphed(step, device), Clock(options.minutes, steps=4 if options.tiny else None)
    lines: dict[str, list[tuple[float, float]]] = {"spectrogram": [], "mouth": []}
    while clock.passed < 1:
        new = draw()
        mel.copy_(new[0])
        mouth.copy_(new[1])
        optimizer.set_rate(rate(clock.passed))
        average.set_step(clock.count)
        losses = graphed()
        clock.count += 1
        if clock.count % 20 == 0 or options.tiny:
            for name, value in zip(lines, losses.tolist(), strict=True):
                lines[name].append((clock.count, value))
    average.swap()
    with torch.no_grad():
        packed = torch.cat([pack_audio(encoder.encoder(draw()[0]).chunk(2, dim=1)[0]).flatten(0, 1) for _ in range(8)])
        encoder.latents_mean.copy_(packed.mean(0))
        encoder.latents_std.copy_(packed.std(0).clamp(min=1e-2))
        probe(encoder, Sounds(options.input / "speech.npz", device, held_out=True), sounds, 8 if options.tiny else 64)
    print(f"audio_vae: {clock.count} steps in {clock.elapsed:.0f} s", {k: round(v[-1][1], 4) for k, v in lines.items()})
    save(options.output / "audio_vae.safetensors", encoder.state_dict(), torch.bfloat16)
    curve(options.output / "audio_vae_loss.png", lines)


def probe(encoder: AudioEncoder, unseen: Sounds, seen: Sounds, count: int) -> None:
    """How well a linear reader of three neighbouring tokens gives the mouth, on unseen sentences: R2."""
    generator = torch.Generator(unseen.device).manual_seed(5)
    sets = []
    for sounds in (seen, unseen):
        sound = sounds.draw(count, FRAMES / FRAME_RATE, generator, only_speech=True)
        tokens = tokens_of(encoder, mel_of(sound), 100)
        near = torch.cat([tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:], torch.ones_like(tokens[:, 2:, :1])], dim=-1)
        sets.append((near.flatten(0, 1).double(), targets(sound, 100)[:, 1:-1].flatten(0, 1).double()))
    (x, y), (x_new, y_new) = sets
    weights = torch.linalg.solve(x.mT @ x + 1e-1 * torch.eye(x.shape[1], device=x.device), x.mT @ y)
    left = (x_new @ weights - y_new).square().mean(0) / y_new.var(0)
    opening, width = (1 - left).tolist()
    print(f"audio_vae probe on unseen sentences: R2 opening {opening:.3f} width {width:.3f}", flush=True)


if __name__ == "__main__":
    main()
