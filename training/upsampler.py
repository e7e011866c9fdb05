"""The latent upsampler: latents of 128x128 to those of 256x256 of the same clip.

python training/upsampler.py --minutes 0.5
"""

from __future__ import annotations

import torch
from banks import build_encoder, encode
from clips import draw_clips
from common import Average, Clock, arguments, curve, load, materialise, rate, save
from config import UPSAMPLER
from optim import Graphed, Optimizer
from sounds import Sounds
from torch import Tensor

from ltx_a2v.networks.upsampler import build_upsampler


def upsampler_arguments() -> dict:
    names = ("in_channels", "mid_channels", "num_blocks_per_stage", "dims", "spatial_upsample", "temporal_upsample")
    return {**{name: UPSAMPLER[name] for name in names}, "use_rational_resampler": False}


def main() -> None:
    options = arguments(__doc__, minutes=0.5).parse_args()
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    encoder = build_encoder(options.input, device)
    sounds = Sounds(options.input / "speech.npz", device)
    count, frames, size, batch = (8, 9, 64, 2) if options.tiny else (1536, 25, 128, 64)
    clips = draw_clips(sounds, count, frames, options.seed + 77)
    small, large = (
        torch.cat([encode(encoder, clips.render(s, s, slice(i, i + 8))) for i in range(0, count, 8)])
        for s in (size, 2 * size)
    )
    mean, std = (t.view(1, -1, 1, 1, 1) for t in (encoder.latents_mean, encoder.latents_std))
    model = materialise(build_upsampler(upsampler_arguments()), device)
    if options.resume:
        model.load_state_dict(load(options.resume, device))
    named = {name: parameter.requires_grad_(True) for name, parameter in model.named_parameters()}
    optimizer = Optimizer(named, ("initial_conv", "final_conv"), 2e-3, 1e-3)
    average = Average(list(named.values()))
    index = torch.arange(batch, device=device)

    def step() -> Tensor:
        for parameter in named.values():
            parameter.grad = None
        given = small[index].float().permute(0, 4, 1, 2, 3)
        given = given + 0.05 * torch.randn_like(given)
        made = (model(given * std + mean) - mean) / std
        loss = (made - large[index].float().permute(0, 4, 1, 2, 3)).square().mean()
        loss.backward()
        optimizer.step()
        average.update()
        return loss.detach()

    graphed, clock = Graphed(step, device), Clock(options.minutes, steps=2 if options.tiny else None)
    line: list[tuple[float, float]] = []
    while clock.passed < 1:
        index.copy_(torch.randint(count, (batch,)))
        optimizer.set_rate(rate(clock.passed))
        average.set_step(clock.count)
        loss = graphed()
        clock.count += 1
        if clock.count % 25 == 0 or options.tiny:
            line.append((clock.count, float(loss)))
    average.swap()
    save(options.output / "upsampler.safetensors", model.state_dict(), torch.bfloat16)
    curve(options.output / "upsampler_loss.png", {"loss": line})
    print(f"upsampler: {clock.count} steps in {clock.elapsed:.0f} s, normalised error {line[-1][1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
