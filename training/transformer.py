"""The transformer and the text connectors.

    python training/banks.py --minutes 6 --output /dev/shm/banks &
    python training/transformer.py --minutes 5 --banks /dev/shm/banks

Flow matching on latents: most clips with their first frame given, some with three latent frames (a window that goes on
from another), some with nothing, some with a picture at another frame, appended as tokens. Text is dropped in 12% of
the groups, sound in 12% of the rows, and the perturbed block's self-attention in 10%, so that guidance has something to
compare with.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import forward
import torch
from audio_vae import tokens_of
from banks import COMBINATIONS, FRAMES, KINDS, TINY, Kind
from common import Average, Clock, arguments, curve, load, rate, save
from config import MODEL
from faces import FRAME_RATE, MOUTH_BOX, box_mask
from optim import Graphed, Optimizer
from safetensors.torch import load_file
from texts import NOTHING_SAID, build_gemma, gemma_config, hidden_states, prompt
from torch import Tensor, nn

from ltx_a2v.networks.audio_vae import AudioEncoder, latent_steps
from ltx_a2v.networks.text import build_connectors
from ltx_a2v.networks.transformer import build_transformer
from ltx_a2v.versions.ltx_2_3 import LTX_2_3

VARIANTS = 6
FIRST, WINDOW = 0.66, 0.84
"""Rows below the first have their first frame given, below the second three latent frames, the rest nothing."""
TEXT_DROPPED, ISOLATED, PERTURBED = 0.12, 0.12, 0.10
MOUTH_WEIGHT = 3.0
DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)


class Bank:
    """Latents and audio tokens of one kind, filled from shards as these appear."""

    def __init__(self, kind: Kind, frames: int, encoder: AudioEncoder, device: torch.device) -> None:
        self.kind, self.encoder, self.filled, self.at = kind, encoder, 0, 0
        grid = ((frames - 1) // 8 + 1, kind.height // 32, kind.width // 32)
        self.tokens = latent_steps(frames / FRAME_RATE, LTX_2_3.latents.audio_per_second)
        shape = (len(COMBINATIONS), kind.capacity)
        self.latents = torch.zeros(*shape, *grid, 128, dtype=torch.bfloat16, device=device)
        self.audio = torch.zeros(*shape, self.tokens, 128, dtype=torch.bfloat16, device=device)
        self.picture = torch.zeros(*shape, *grid[1:], 128, dtype=torch.bfloat16, device=device)
        self.picture_at = torch.zeros(shape, device=device)

    @torch.no_grad()
    def add(self, shard: dict[str, Tensor]) -> None:
        rows = shard["latents"].shape[1]
        if self.at + rows > self.kind.capacity:
            self.at = 0
        place = slice(self.at, self.at + rows)
        for name in ("latents", "picture", "picture_at"):
            kept = getattr(self, name)
            kept[:, place] = shard[name].to(kept)
        mel = shard["mel"].to(self.latents.device).float().flatten(0, 1)[:, None].expand(-1, 2, -1, -1)
        audio = torch.cat([tokens_of(self.encoder, part, self.tokens) for part in mel.split(64)])
        self.audio[:, place] = audio.unflatten(0, (-1, rows)).to(self.audio)
        self.at += rows
        self.filled = max(self.filled, self.at)


class Shards:
    """The folder that banks are read from."""

    def __init__(self, folder: Path, banks: list[Bank]) -> None:
        self.folder, self.banks, self.seen = folder, {bank.kind.name: bank for bank in banks}, set[str]()

    def read(self, at_most: int) -> int:
        new = sorted(path for path in self.folder.glob("*.safetensors") if path.name not in self.seen)[:at_most]
        for path in new:
            self.seen.add(path.name)
            self.banks[path.name.rsplit("_", 1)[0]].add(load_file(path))
        return len(new)


class Course:
    """One way of training on one bank: how many groups of how many rows, how many latent frames, appended pictures."""

    def __init__(self, bank: Bank, groups: int, rows: int, frames: int, pictures: int, model: nn.Module) -> None:
        self.bank, self.groups, self.rows, self.pictures = bank, groups, rows, pictures
        device = bank.latents.device
        _, self.height, self.width, _ = bank.latents.shape[2:]
        self.frames = frames
        self.audio_tokens = min(
            bank.tokens, latent_steps(((frames - 1) * 8 + 1) / FRAME_RATE, LTX_2_3.latents.audio_per_second)
        )
        count = groups * rows
        self.combination = torch.zeros(count, dtype=torch.long, device=device)
        self.clip = torch.zeros(count, dtype=torch.long, device=device)
        self.video_prompt = torch.zeros(groups, dtype=torch.long, device=device)
        self.audio_prompt = torch.zeros(groups, dtype=torch.long, device=device)
        self.sigma_group = torch.ones(groups, device=device)
        grid = model.rope.prepare_video_coords(1, frames, self.height, self.width, device, fps=FRAME_RATE)
        self.grid = grid
        self.ropes = forward.ropes(model, grid, self.audio_tokens)
        mouth = box_mask(bank.kind.height, bank.kind.width, MOUTH_BOX, device).float()
        cells = torch.nn.functional.avg_pool2d(mouth[None], 32)[0].flatten()
        weights = 1 + MOUTH_WEIGHT * cells / cells.max()
        self.weights = (weights / weights.mean()).repeat(frames)

    def draw(self, random_: torch.Generator, sigmas: Tensor | None) -> None:
        """What the next step learns from."""
        n, groups = len(COMBINATIONS), self.groups
        combination = torch.randint(n, (groups,), generator=random_)
        variant = torch.randint(VARIANTS, (groups,), generator=random_)
        said = combination * VARIANTS + variant
        nothing = n * VARIANTS + torch.randint(len(NOTHING_SAID), (groups,), generator=random_)
        dropped = torch.rand(groups, generator=random_) < TEXT_DROPPED
        self.video_prompt.copy_(torch.where(dropped, nothing, said))
        self.audio_prompt.copy_(torch.where(dropped & (torch.rand(groups, generator=random_) < 0.3), nothing, said))
        self.combination.copy_(combination.repeat_interleave(self.rows))
        self.clip.copy_(torch.randint(max(1, self.bank.filled), (groups * self.rows,), generator=random_))
        uniform = torch.rand(groups, generator=random_)
        shifted = 7.77 * uniform / (1 + 6.77 * uniform)  # the schedule's shift of 2.05
        drawn = torch.where(
            torch.rand(groups, generator=random_) < 0.35, torch.rand(groups, generator=random_), shifted
        )
        if sigmas is not None:
            drawn = sigmas[torch.randint(len(sigmas), (groups,), generator=random_)]
        self.sigma_group.copy_(drawn.clamp(min=0.02))


class Networks(nn.Module):
    """Both networks as one, whose weights can be replaced by ones made of them during a call."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.transformer, self.connectors = make_modules(device)

    def forward(self, compute):
        return compute()

    def with_weights(self, weights: dict[str, Tensor], compute):
        return torch.func.functional_call(self, weights, (compute,))


class Learner:
    def __init__(self, options, device: torch.device) -> None:
        torch.manual_seed(options.seed)
        self.device = device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.networks = Networks(device)
        if options.resume:
            self.networks.load_state_dict(load(options.resume, device))
        unused = unused_parameters(self.networks.transformer)
        self.named = {n: p for n, p in self.networks.named_parameters() if n.removeprefix("transformer.") not in unused}
        self.perturbed_block = MODEL.version.defaults.stg_blocks(MODEL.num_layers)[0]
        gemma = build_gemma()
        random_ = random.Random(options.seed)
        texts = [prompt(c, random_, v == 0) for c in COMBINATIONS for v in range(VARIANTS)] + list(NOTHING_SAID)
        self.hidden, self.masks = hidden_states(gemma, texts, device)

    def low(self) -> dict[str, Tensor]:
        """The weights in the dtype that is computed in; gradients go through."""
        return {name: parameter.to(self.dtype) for name, parameter in self.named.items()}

    def contexts(self, index: Tensor) -> tuple[Tensor, Tensor]:
        video, audio, _ = self.networks.connectors(self.hidden[index].to(self.dtype), self.masks[index])
        return video.to(self.dtype), audio.to(self.dtype)

    def loss(self, course: Course) -> Tensor:
        """[4]: weighted loss, loss of the mouth's cells with sound and without it at high sigma, and of all."""
        bank, device = course.bank, self.device
        index = (course.combination, course.clip)
        clean = bank.latents[index][:, : course.frames].flatten(1, 3).float()
        audio = bank.audio[index][:, : course.audio_tokens].to(self.dtype)
        count, cells = len(clean), course.height * course.width
        sigma = course.sigma_group.repeat_interleave(course.rows)
        kind = torch.rand(count, device=device)
        given = torch.where(kind < FIRST, 1, torch.where(kind < WINDOW, 3, 0))
        mask = (torch.arange(course.frames, device=device)[None] >= given[:, None]).float()
        free = mask.repeat_interleave(cells, dim=1)[..., None]
        noise = torch.randn_like(clean)
        held = clean + 0.1 * torch.rand(count, 1, 1, device=device) * torch.randn_like(clean)
        noisy = torch.where(free > 0, torch.lerp(clean, noise, sigma[:, None, None]), held)
        tables = course.ropes
        if course.pictures:
            noisy, mask, tables = self.append_picture(course, clean, noisy, mask)
        isolated = (torch.rand(count, device=device) < ISOLATED).float()
        perturbed = (torch.rand(count, device=device) < PERTURBED).float()
        context = torch.cat([course.video_prompt, course.audio_prompt])
        video_text, audio_text = (text.chunk(2)[i] for i, text in enumerate(self.contexts(context)))
        batch = forward.Batch(noisy.to(self.dtype), mask, sigma, audio, video_text, audio_text, isolated, perturbed)
        found = forward.velocity(self.networks.transformer, batch, tables, self.perturbed_block)[
            :, : clean.shape[1]
        ].float()
        error = (found - (noise - clean)).square().mean(-1) * free[..., 0]
        by_row = (error * course.weights).sum(1) / (free[..., 0] * course.weights).sum(1).clamp(min=1)
        plain = error.sum() / free.sum()
        mouth = (error * (course.weights > 1.5)).sum(1) / (free[..., 0] * (course.weights > 1.5)).sum(1).clamp(min=1)
        high = (sigma > 0.8).float()
        with_sound, without = high * (1 - isolated), high * isolated
        heard = (mouth * with_sound).sum() / with_sound.sum().clamp(min=1e-6)
        unheard = (mouth * without).sum() / without.sum().clamp(min=1e-6)
        return torch.stack([by_row.mean(), heard, unheard, plain])

    def append_picture(
        self, course: Course, clean: Tensor, noisy: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, forward.Ropes]:
        """A picture's tokens at its frame, of which it says when it begins and, a frame later, ends."""
        count, cells, bank = len(clean), course.height * course.width, course.bank
        index = (course.combination, course.clip)
        at = bank.picture_at[index]
        extra = course.grid[:, :, :cells].repeat(count, 1, 1, 1)
        start = (at / FRAME_RATE)[:, None].expand(-1, cells)
        extra[:, 0, :, 0], extra[:, 0, :, 1] = start, start + 1 / FRAME_RATE
        grid = torch.cat([course.grid.expand(count, -1, -1, -1), extra], dim=2)
        tables = forward.ropes(self.networks.transformer, grid, course.audio_tokens)
        picture = bank.picture[index].flatten(1, 2).float()
        shown = torch.cat([mask, torch.zeros_like(mask[:, :1])], dim=1)
        return torch.cat([noisy, picture], dim=1), shown, tables


def make_modules(device: torch.device | str) -> tuple[nn.Module, nn.Module]:
    """Transformer and connectors with initial values; gates begin half open, the rest of the tables near zero."""
    model, connectors = build_transformer(MODEL), build_connectors(MODEL, gemma_config()["num_hidden_layers"] + 1)
    for module in (model, connectors):
        module.to_empty(device=device)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        for name, parameter in module.named_parameters():
            if name.endswith("learnable_registers"):
                parameter.normal_(std=0.3)
            elif "scale_shift_table" in name:
                parameter.normal_(std=0.02)
                gates = {9: (2, 5, 8), 5: (4,)}.get(parameter.shape[0], ())
                for row in gates:
                    parameter[row] = 0.5
            elif "norm" in name and name.endswith("weight") and parameter.ndim == 1:
                parameter.fill_(1)
        for name, part in module.named_modules():
            if "rope" in name.rsplit(".", 1)[-1] and list(part.buffers()):
                raise AssertionError(f"{name} has buffers to fill")
    return model, connectors


def build_audio(folder: Path, device: torch.device | str) -> AudioEncoder:
    encoder = AudioEncoder(MODEL).to(device).requires_grad_(False)
    encoder.load_state_dict(load(folder / "audio_vae.safetensors", device))
    return encoder


def make_courses(banks: list[Bank], model: nn.Module, tiny: bool) -> tuple[list[Course], list[int]]:
    """Courses, and the order in which they take turns."""
    if tiny:
        return [Course(banks[0], 2, 2, 2, 0, model), Course(banks[0], 2, 2, 2, 1, model)], [0, 1]
    small, large, wide, tall, cinema = banks
    courses = [
        Course(small, 16, 16, 16, 0, model),
        Course(small, 16, 16, 13, 1, model),
        Course(large, 16, 4, 16, 0, model),
        Course(wide, 16, 10, 16, 0, model),
        Course(tall, 16, 10, 13, 0, model),
        Course(cinema, 16, 3, 13, 0, model),
        Course(large, 16, 4, 9, 1, model),
    ]
    return courses, [2, 0, 2, 0, 2, 3, 2, 0, 2, 4, 2, 1, 2, 5, 0, 6]


def main() -> None:
    parser = arguments(__doc__, minutes=5)
    parser.add_argument("--banks", type=Path, default=Path("/dev/shm/banks"))
    parser.add_argument("--wait", type=float, default=40, help="seconds to collect shards before training begins")
    parser.add_argument("--muon-rate", type=float, default=3e-3)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    learner = Learner(options, device)
    audio = build_audio(options.input, device)
    kinds, frames = (TINY, 9) if options.tiny else (KINDS, FRAMES)
    banks = [Bank(kind, frames, audio, device) for kind in kinds]
    shards, begun = Shards(options.banks, banks), time.monotonic()
    while not all(bank.filled for bank in banks) or time.monotonic() - begun < (0 if options.tiny else options.wait):
        if not shards.read(100):
            time.sleep(0.5)
    named = {name: parameter.requires_grad_(True) for name, parameter in learner.named.items()}
    outside = ("proj_in", "proj_out", "scale_shift_table", "registers", "emb.", "text_proj_in", "gate_logits")
    optimizer = Optimizer(named, outside, options.muon_rate, options.adam_rate)
    average = Average(list(named.values()))
    courses, order = make_courses(banks, learner.networks.transformer, options.tiny)

    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None  # steps never overlap

    def make_step(course: Course) -> Graphed:
        def step() -> Tensor:
            for parameter in named.values():
                parameter.grad = None
            losses = learner.networks.with_weights(learner.low(), lambda: learner.loss(course))
            losses[0].backward()
            norm = optimizer.step()
            average.update()
            return torch.cat([losses.detach(), norm[None]])

        return Graphed(step, device, pool)

    host = torch.Generator().manual_seed(options.seed)
    for course in courses:
        course.draw(host, None)
    steps = [make_step(course) for course in courses]
    print(
        f"transformer: {sum(p.numel() for p in named.values()) / 1e6:.2f} M trained, ready after "
        f"{time.monotonic() - begun:.0f} s, clips of each combination: "
        + " ".join(f"{b.kind.name} {b.filled}" for b in banks),
        flush=True,
    )
    clock = Clock(options.minutes, steps=2 if options.tiny else None)
    names = ("loss", "mouth heard", "mouth unheard")
    lines: dict[str, list[tuple[float, float]]] = {n: [] for n in (*names, "loss large")}
    sums: dict[int, list[Tensor]] = {}
    shown = saved = 0.0
    while clock.passed < 1:
        turn = order[clock.count % len(order)]
        courses[turn].draw(host, None)
        optimizer.set_rate(rate(clock.passed))
        average.set_step(clock.count)
        sums.setdefault(turn, []).append(steps[turn]().clone())
        clock.count += 1
        if clock.count % 64 == 0:
            shards.read(1)
        if clock.elapsed - shown > 15:
            shown = clock.elapsed
            means = {t: torch.stack(v).mean(0).tolist() for t, v in sums.items()}
            sums.clear()
            if 0 in means:
                for name, value in zip(names, means[0], strict=False):
                    lines[name].append((clock.count, value))
            if 2 in means:
                lines["loss large"].append((clock.count, means[2][0]))
            text = " | ".join(
                f"{t}: {m[0]:.4f} heard {m[1]:.4f} unheard {m[2]:.4f}" for t, m in sorted(means.items()) if t in (0, 2)
            )
            print(
                f"transformer {clock.elapsed:4.0f} s step {clock.count} {text} norm {means.get(0, [0] * 5)[4]:.2f}",
                flush=True,
            )
        if clock.elapsed - saved > 120:
            saved = clock.elapsed
            average.swap()
            save(options.output / "transformer.safetensors", learner.networks.state_dict(), torch.bfloat16)
            average.swap()
    average.swap()
    save(options.output / "transformer.safetensors", learner.networks.state_dict(), torch.bfloat16)
    curve(options.output / "transformer_loss.png", lines)
    print(
        f"transformer: {clock.count} steps in {clock.elapsed:.0f} s, clips of each combination: "
        + " ".join(f"{b.kind.name} {b.filled}" for b in banks),
        flush=True,
    )


def unused_parameters(model: nn.Module) -> set[str]:
    """What only the audio's prediction depends on, which audio-to-video never makes."""
    last = f"transformer_blocks.{MODEL.num_layers - 1}."
    inside = ("video_to_audio_attn.", "audio_ff.")
    outside = ("audio_proj_out", "audio_norm_out", "audio_scale_shift_table")
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith(outside) or any(name.startswith(last + part) for part in inside)
    }


if __name__ == "__main__":
    main()
