"""Muon for matrices and kernels, Adam for the rest; both can be captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Muon:
    """Momentum whose matrices are made orthogonal (K. Jordan's method, five Newton-Schulz steps).

    A kernel [out, in, ...] is taken as a matrix [out, in * ...]. Equal shapes go through the steps together.
    """

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.0) -> None:
        self.parameters, self.momentum, self.decay = parameters, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in parameters]
        self.rate = torch.zeros((), device=parameters[0].device)
        self.groups: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(parameters):
            self.groups.setdefault((p.shape[0], p[0].numel()), []).append(i)

    @torch.no_grad()
    def step(self) -> None:
        gradients = [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.buffers, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, self.buffers, self.momentum)
        if self.decay:
            torch._foreach_mul_(self.parameters, 1 - self.rate * self.decay)
        for (rows, columns), members in self.groups.items():
            directions = orthogonal(torch.stack([ahead[i].reshape(rows, columns) for i in members]))
            size = 0.2 * max(rows, columns) ** 0.5  # then an update has Adam's usual size
            for i, direction in zip(members, directions, strict=True):
                self.parameters[i].sub_(direction.view_as(self.parameters[i]).to(torch.float32) * size * self.rate)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """[n, rows, columns]: singular values to about 1."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Adam:
    def __init__(self, parameters: list[nn.Parameter], betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self.parameters, self.betas = parameters, betas
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.rate = torch.zeros((), device=parameters[0].device)
        self.count = torch.zeros((), device=parameters[0].device)

    @torch.no_grad()
    def step(self) -> None:
        gradients = [p.grad for p in self.parameters]
        self.count += 1
        torch._foreach_lerp_(self.first, gradients, 1 - self.betas[0])
        torch._foreach_mul_(self.second, self.betas[1])
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - self.betas[1])
        correction = (1 - self.betas[1] ** self.count).sqrt() / (1 - self.betas[0] ** self.count)
        divisor = torch._foreach_sqrt(self.second)
        torch._foreach_add_(divisor, 1e-8)
        change = torch._foreach_div(self.first, divisor)
        torch._foreach_mul_(change, -self.rate * correction)
        torch._foreach_add_(self.parameters, change)


class Optimizer:
    """`muon` for what is a matrix inside the network, Adam for `adam` and whatever has one dimension."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        adam: tuple[str, ...],
        muon_rate: float,
        adam_rate: float,
        limit: float = 1.0,
    ) -> None:
        inside = {n: p for n, p in named.items() if p.ndim > 1 and muon_rate > 0 and not any(a in n for a in adam)}
        self.all = list(named.values())
        self.muon = Muon(list(inside.values())) if inside else None
        self.adam = Adam([p for n, p in named.items() if n not in inside])
        self.rates, self.limit = (muon_rate, adam_rate), limit
        self.set_rate(0.0)

    def set_rate(self, share: float) -> None:
        if self.muon:
            self.muon.rate.fill_(self.rates[0] * share)
        self.adam.rate.fill_(self.rates[1] * share)

    def step(self) -> Tensor:
        """Returns the gradient's norm, which is cut to `limit`."""
        gradients = [p.grad for p in self.all]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (self.limit / (norm + 1e-6)).clamp(max=1.0))
        if self.muon:
            self.muon.step()
        self.adam.step()
        return norm


class Graphed:
    """A step without arguments, captured once and replayed; on a CPU it simply runs."""

    def __init__(self, step, device: torch.device | str, pool=None) -> None:
        self.step, self.graph = step, None
        if torch.device(device).type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool):
                self.result = step()

    def __call__(self):
        if self.graph is None:
            return self.step()
        self.graph.replay()
        return self.result
