"""The video VAE.

    python training/video_vae.py --minutes 7

Short clips at 128x128 and 256x256 are painted once and kept in 8 bits on the GPU. The loss weighs mouth and eyes; while
training, latents are noised a little, and a linear head must read mouth, lids and mood out of them, so that they are
arranged as the transformer will want them.
"""

from __future__ import annotations

import time

import fast_vae
import torch
import torch.nn.functional as F
from clips import draw_clips
from common import Average, Clock, arguments, curve, load, materialise, rate, save, sheet, to_rgb
from config import MODEL
from faces import EYES_BOX, MOUTH_BOX, box_mask
from optim import Graphed, Optimizer
from sounds import Sounds
from torch import Tensor, nn

from ltx_a2v.media.sync import mouth_opening
from ltx_a2v.networks.video_vae import VideoDecoder, VideoEncoder

NOISE = 0.1
SPREAD = 1e-3
READABLE = 0.3
READ = ("opening", "width", "blink", "mood", "turn")


class Reader(nn.Module):
    """What a latent frame says about its eight frames: [B, F', H', W', 128] -> [B, F', 8, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Linear(128, 8 * len(READ) + 1)

    def forward(self, latent: Tensor) -> Tensor:
        out = self.values(latent.float()).flatten(2, 3)
        return (out[..., :-1] * out[..., -1:].softmax(2)).sum(2).unflatten(-1, (8, len(READ)))


class Bank:
    """Painted clips of one size, and what moves in them."""

    def __init__(self, sounds: Sounds, count: int, frames: int, size: tuple[int, int], seed: int) -> None:
        device = sounds.device
        clips = draw_clips(sounds, count, frames, seed)
        self.pixels = torch.empty(count, 3, frames, *size, dtype=torch.uint8, device=device)
        for first in range(0, count, 16):
            rows = slice(first, first + 16)
            self.pixels[rows] = ((clips.render(*size, rows) + 1) * 127.5).round().byte()
        moves = torch.stack([getattr(clips.motion, name) for name in READ], dim=-1)
        self.moves = torch.cat([moves[:, :1].expand(-1, 7, -1), moves], dim=1).unflatten(1, (-1, 8))
        mouth, eyes = (box_mask(*size, box, device).float() for box in (MOUTH_BOX, EYES_BOX))
        weights = F.avg_pool2d((1 + 5 * mouth + 3 * eyes)[None], 9, 1, 4, count_include_pad=False)[0]
        self.weights = weights / weights.mean()

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels[index].float() / 127.5 - 1, self.moves[index]


class Training:
    def __init__(self, options) -> None:
        self.options, self.device = options, torch.device(options.device)
        torch.manual_seed(options.seed)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.encoder = materialise(VideoEncoder(MODEL), self.device).train()
        self.decoder = materialise(VideoDecoder(MODEL), self.device).train()
        self.reader = Reader().to(self.device)
        if options.resume:
            restore(self, load(options.resume, self.device))
        named = {f"decoder.{n}": p for n, p in self.decoder.decoder.named_parameters()}
        if not options.decoder_only:
            named |= {f"encoder.{n}": p for n, p in self.encoder.encoder.named_parameters()}
            named |= {f"reader.{n}": p for n, p in self.reader.named_parameters()}
        for parameter in named.values():
            parameter.requires_grad_(True)
        self.named = named
        outside = ("coder.conv_in", "coder.conv_out", "reader")
        self.optimizer = Optimizer(named, outside, options.muon_rate, options.adam_rate)
        self.average = Average(list(named.values()))

    def make_step(self, bank: Bank, index: Tensor) -> Graphed:
        def step() -> Tensor:
            for parameter in self.named.values():
                parameter.grad = None
            pixels, moves = bank[index]
            losses = self.losses(pixels, moves, bank.weights)
            losses[0].backward()
            norm = self.optimizer.step()
            self.average.update()
            return torch.stack([*losses, norm]).detach()

        return Graphed(step, self.device)

    def losses(self, pixels: Tensor, moves: Tensor, weights: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(not self.options.decoder_only):
            latent = fast_vae.encode(self.encoder.encoder, pixels.to(self.dtype)).float()
            read = self.reader(latent) - moves
            read = torch.cat([read[:, :1, 7:].flatten(1), read[:, 1:].flatten(1)], dim=1).square().mean()
        noised = latent + NOISE * torch.randn_like(latent)
        painted = fast_vae.decode(self.decoder.decoder, noised.to(self.dtype)).float()
        error = painted - pixels
        shape = (error.square() + 1e-4).sqrt().mean(dim=(0, 1, 2))
        paint = (shape * weights).mean() + 2 * (error.square().mean(dim=(0, 1, 2)) * weights).mean()
        edges = _edges(error, weights)
        coarse = F.avg_pool3d(error, (1, 8, 8)).abs().mean()
        total = paint + 0.5 * edges + 0.5 * coarse + READABLE * read + SPREAD * latent.square().mean()
        return [total, paint, error.square().mean(), read]


def _edges(error: Tensor, weights: Tensor) -> Tensor:
    across = error.diff(dim=4).abs().mean(dim=(0, 1, 2)) * weights[:, 1:]
    along = error.diff(dim=3).abs().mean(dim=(0, 1, 2)) * weights[1:]
    moving = error.diff(dim=2).abs().mean(dim=(0, 1, 2)) * weights if error.shape[2] > 1 else error.new_zeros(1)
    return across.mean() + along.mean() + moving.mean()


def state(training: Training) -> dict[str, Tensor]:
    """Encoder, decoder, statistics and reader, as the averaged weights are."""
    training.average.swap()
    tensors = {f"encoder.{n}": t.clone() for n, t in training.encoder.encoder.state_dict().items()}
    tensors |= {f"decoder.{n}": t.clone() for n, t in training.decoder.decoder.state_dict().items()}
    tensors |= {f"reader.{n}": t.clone() for n, t in training.reader.state_dict().items()}
    training.average.swap()
    tensors["latents_mean"], tensors["latents_std"] = training.encoder.latents_mean, training.encoder.latents_std
    return tensors


def restore(target, tensors: dict[str, Tensor]) -> None:
    for name, module in (("encoder", target.encoder.encoder), ("decoder", target.decoder.decoder)):
        part = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
        module.load_state_dict(part)
    reader = {n.removeprefix("reader."): t for n, t in tensors.items() if n.startswith("reader.")}
    if reader:  # a model that ships has none
        target.reader.load_state_dict(reader)
    for module in (target.encoder, target.decoder):
        module.latents_mean.copy_(tensors["latents_mean"])
        module.latents_std.copy_(tensors["latents_std"])


@torch.no_grad()
def set_statistics(training: Training, bank: Bank) -> None:
    """Mean and deviation of each channel, over the bank."""
    latents = [
        fast_vae.encode(training.encoder.encoder, bank[torch.arange(i, i + 8)][0].to(training.dtype))
        .float()
        .flatten(0, 3)
        for i in range(0, min(len(bank.pixels) - 7, 512), 8)
    ]
    values = torch.cat(latents)
    for module in (training.encoder, training.decoder):
        module.latents_mean.copy_(values.mean(0))
        module.latents_std.copy_(values.std(0).clamp(min=1e-2))


@torch.no_grad()
def judge(training: Training, sounds: Sounds, size: tuple[int, int], count: int, frames: int) -> tuple[dict, list]:
    """On faces and sentences that were never trained on: PSNR, the mouth's PSNR, correlation of mouth openings."""
    clips = draw_clips(sounds, count, frames, seed=987_654, only_speech=True)
    mouth = box_mask(*size, MOUTH_BOX, training.device)
    squares, mouths, correlations, shares, rows = [], [], [], [], []
    for i in range(count):
        pixels = clips.render(*size, slice(i, i + 1))
        latent = fast_vae.encode(training.encoder.encoder, pixels.to(training.dtype))
        painted = fast_vae.decode(training.decoder.decoder, latent).float()
        squares.append((painted - pixels).square().mean())
        mouths.append((painted - pixels)[..., mouth].square().mean())
        truth, shown = (torch.from_numpy(to_rgb(video[0])).to(training.device) for video in (pixels, painted))
        a, b = mouth_opening(truth), mouth_opening(shown)
        correlations.append(torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num())
        shares.append(b.std() / a.std())
        if i < 6:
            rows += [to_rgb(video[0])[4 : 4 + 3 * 8 : 3] for video in (pixels, painted)]
    psnr = lambda values: float(10 * torch.log10(4 / torch.stack(values).mean()))  # noqa: E731
    found = torch.stack(correlations)
    figures = {
        "psnr": psnr(squares),
        "mouth_psnr": psnr(mouths),
        "mouth_corr": float(found.mean()),
        "worst": float(found.min()),
        "movement": float(torch.stack(shares).mean()),
    }
    return figures, rows


def main() -> None:
    parser = arguments(__doc__, minutes=7)
    parser.add_argument("--muon-rate", type=float, default=2e-3, help="0: Adam for everything")
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder and the statistics")
    parser.add_argument("--name", default="video_vae")
    parser.add_argument("--steps", type=int, default=10, help="of the tiny setting")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    training = Training(options)
    sounds = Sounds(options.input / "speech.npz", options.device)
    began = time.monotonic()
    # clips, frames, height, width, batch
    plan = [(8192, 17, 128, 128, 32), (3072, 9, 256, 256, 16), (768, 9, 192, 320, 16)]
    if options.tiny:
        plan = [(12, 9, 64, 64, 4)]
    banks = [Bank(sounds, n, f, (h, w), options.seed * 1000 + i) for i, (n, f, h, w, _) in enumerate(plan)]
    indices = [torch.arange(batch, device=options.device) for *_, batch in plan]
    steps = [training.make_step(bank, index) for bank, index in zip(banks, indices, strict=True)]
    order = [0, 1, 0, 1, 0, 1, 0, 2] if len(plan) > 1 else [0]
    print(f"{options.name}: prepared in {time.monotonic() - began:.1f} s", flush=True)
    clock = Clock(options.minutes, steps=options.steps if options.tiny else None)
    lines: dict[str, list[tuple[float, float]]] = {"paint": [], "mse": [], "read": [], "paint large": []}
    shown = saved = clock.elapsed
    order_of = [torch.randperm(len(bank.pixels), device=options.device) for bank in banks]
    places = [0] * len(banks)
    while clock.passed < 1:
        kind = order[clock.count % len(order)]
        if places[kind] + len(indices[kind]) > len(order_of[kind]):
            order_of[kind], places[kind] = torch.randperm(len(order_of[kind]), device=options.device), 0
        indices[kind].copy_(order_of[kind][places[kind] : places[kind] + len(indices[kind])])
        places[kind] += len(indices[kind])
        training.optimizer.set_rate(rate(clock.passed))
        training.average.set_step(clock.count)
        losses = steps[kind]()
        clock.count += 1
        if clock.count % 50 in (0, 1) or options.tiny:
            total, paint, mse, read, norm = losses.tolist()
            if kind == 0:
                for name, value in zip(("paint", "mse", "read"), (paint, mse, read), strict=True):
                    lines[name].append((clock.count, value))
            else:
                lines["paint large"].append((clock.count, paint))
            if clock.elapsed - shown > 20 or options.tiny:
                shown = clock.elapsed
                print(
                    f"{options.name} {clock.elapsed:5.0f} s step {clock.count} size {kind} loss {total:.4f} "
                    f"paint {paint:.4f} mse {mse:.5f} read {read:.4f} norm {norm:.2f}",
                    flush=True,
                )
        if clock.elapsed - saved > 100:
            saved = clock.elapsed
            save(options.output / f"{options.name}.safetensors", state(training), torch.bfloat16)
    if not options.decoder_only:
        training.average.swap()
        set_statistics(training, banks[0])
        training.average.swap()
    save(options.output / f"{options.name}.safetensors", state(training), torch.bfloat16)
    curve(options.output / f"{options.name}_loss.png", lines)
    training.average.swap()
    unseen = Sounds(options.input / "speech.npz", options.device, held_out=True)
    std = training.encoder.latents_std
    print(
        f"{options.name}: {clock.count} steps in {clock.elapsed:.0f} s, "
        f"latents' deviations {std.min():.3f} to {std.max():.3f}"
    )
    sizes = [(64, 64)] if options.tiny else [(128, 128), (256, 256), (256, 384)]
    for size in sizes:
        figures, rows = judge(training, unseen, size, 2 if options.tiny else 32, 9 if options.tiny else 33)
        print(options.name, f"{size[1]}x{size[0]}", " ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
        sheet(options.output / f"{options.name}_{size[1]}x{size[0]}.png", rows if size[0] <= 128 else rows[:8])


if __name__ == "__main__":
    main()
