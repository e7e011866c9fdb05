"""The stage-2 LoRA: the transformer at the few sigmas that stage 2 and the fast mode take.

python training/lora.py --minutes 1 --banks /dev/shm/banks
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from banks import FRAMES, KINDS, TINY
from common import Average, Clock, arguments, curve, load, rate, save
from optim import Graphed, Optimizer
from torch import Tensor, nn
from transformer import DISTILLED, Bank, Course, Learner, Shards, build_audio

RANK = 8
STAGE_2 = 3
"""How much more often the three sigmas of stage 2 are drawn than the fast mode's others."""


def pairs_for(learner: Learner) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Factors for every linear layer of the blocks that the picture depends on, but the gates' logits."""
    found = {}
    for name, weight in learner.named.items():
        if (
            ".transformer_blocks." in name
            and name.endswith(".weight")
            and weight.ndim == 2
            and "gate_logits" not in name
        ):
            down = nn.Parameter(torch.randn(RANK, weight.shape[1], device=weight.device) * weight.shape[1] ** -0.5)
            found[name] = (down, nn.Parameter(torch.zeros(weight.shape[0], RANK, device=weight.device)))
    return found


def main() -> None:
    parser = arguments(__doc__, minutes=1)
    parser.add_argument("--banks", type=Path, default=Path("/dev/shm/banks"))
    parser.add_argument("--wait", type=float, default=15)
    options = parser.parse_args()
    device, resumed = torch.device(options.device), options.resume
    options.resume = options.input / "transformer.safetensors"
    learner = Learner(options, device)
    pairs = pairs_for(learner)
    if resumed:
        kept = load(resumed, device)
        for name, (down, up) in pairs.items():
            down.data.copy_(kept[f"{name.removesuffix('.weight')}.lora_A.weight"])
            up.data.copy_(kept[f"{name.removesuffix('.weight')}.lora_B.weight"])
    audio = build_audio(options.input, device)
    kinds, frames = (TINY, 9) if options.tiny else (KINDS, FRAMES)
    banks = [Bank(kind, frames, audio, device) for kind in kinds]
    shards, begun = Shards(options.banks, banks), time.monotonic()
    while not all(bank.filled for bank in banks) or time.monotonic() - begun < (0 if options.tiny else options.wait):
        if not shards.read(100):
            time.sleep(0.5)
    named = {f"{name}.{side}": factor for name, pair in pairs.items() for side, factor in zip("AB", pair, strict=True)}
    optimizer = Optimizer(named, (), 0.0, 1e-3)
    average = Average(list(named.values()))
    model = learner.networks.transformer
    if options.tiny:
        courses = [Course(banks[0], 2, 2, 2, 0, model)]
    else:
        small, large, wide, _, cinema = banks
        courses = [
            Course(large, 16, 4, 16, 0, model),
            Course(large, 16, 4, 13, 1, model),
            Course(cinema, 16, 3, 13, 0, model),
            Course(wide, 16, 10, 16, 0, model),
            Course(small, 16, 16, 16, 0, model),
        ]
    order = [0, 4, 1, 0, 2, 4, 3, 4] if len(courses) > 1 else [0]
    sigmas = torch.tensor([s for i, s in enumerate(DISTILLED) for _ in range(STAGE_2 if i >= 5 else 1)])

    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def make_step(course: Course) -> Graphed:
        def step() -> Tensor:
            for factor in named.values():
                factor.grad = None
            weights = learner.low()
            for name, (down, up) in pairs.items():
                weights[name] = (learner.named[name] + up @ down).to(learner.dtype)
            losses = learner.networks.with_weights(weights, lambda: learner.loss(course))
            losses[0].backward()
            optimizer.step()
            average.update()
            return losses.detach()

        return Graphed(step, device, pool)

    host = torch.Generator().manual_seed(options.seed)
    for course in courses:
        course.draw(host, sigmas)
    steps, clock = [make_step(course) for course in courses], Clock(options.minutes, steps=2 if options.tiny else None)
    line: list[tuple[float, float]] = []
    recent: list[Tensor] = []
    while clock.passed < 1:
        turn = order[clock.count % len(order)]
        courses[turn].draw(host, sigmas)
        optimizer.set_rate(rate(clock.passed))
        average.set_step(clock.count, 200)
        losses = steps[turn]()
        clock.count += 1
        if turn == 0:
            recent.append(losses[0].clone())
        if len(recent) == 100:
            line.append((clock.count, float(torch.stack(recent).mean())))
            recent.clear()
    average.swap()
    tensors = {}
    for name, (down, up) in pairs.items():
        layer = name.removesuffix(".weight")
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save(options.output / "lora.safetensors", tensors, torch.bfloat16)
    if line:
        curve(options.output / "lora_loss.png", {"loss": line})
        print(
            f"lora: {clock.count} steps in {clock.elapsed:.0f} s, loss {line[0][1]:.4f} to {line[-1][1]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
