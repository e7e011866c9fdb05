"""A model on `meta`, with shapes but no memory, on which the planner runs the phases of the method."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ltx_a2v.diffusion.graphs import BlockGraphs, Work
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.model.in_use import Alone, Blocks, Share
from ltx_a2v.model.model import Model
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.residency.ledger import Ledger, on_host
from ltx_a2v.residency.stream import Place
from ltx_a2v.versions import ModelConfig

META = torch.device("meta")


class MetaCapturer:
    """Counts the pool: what captured work allocates while it runs, the largest of all."""

    def __init__(self) -> None:
        self._pool = torch.empty(0, dtype=torch.uint8, device=META)

    @property
    def nbytes(self) -> int:
        return self._pool.nbytes

    def prepare(self) -> None:
        pass

    def capture(self, work: Work) -> Work:
        with on_host(), Ledger() as ledger:
            work()
        if ledger.peak > self.nbytes:
            self.release()
            self._pool = torch.empty(ledger.peak, dtype=torch.uint8, device=META)
        return _nothing

    def release(self) -> None:
        self._pool = torch.empty(0, dtype=torch.uint8, device=META)


def _nothing() -> None:
    """Replayed: a graph allocates nothing."""


ANY_SLOT = Place(0, 0)
"""Of every block: where blocks are streamed, the audio's text has one more buffer."""


@dataclass(frozen=True)
class MetaTransformer:
    """The transformer, and the sample of its blocks that each sweep visits."""

    module: Any
    sample: Sequence[Any]


class MetaModel:
    """Implements `ModelInUse`. A sweep visits only the first `sampled_blocks` blocks, as every block takes and frees
    the same memory. `perturbed_blocks`, of all blocks, decide which passes are this process's."""

    device = META

    def __init__(
        self,
        model: Model,
        sampled_blocks: int,
        graphs: BlockGraphs | None = None,
        perturbed_blocks: frozenset[int] = frozenset(),
    ) -> None:
        self._model = model
        self._sampled_blocks = sampled_blocks
        self._graphs = graphs
        self._perturbed_blocks = perturbed_blocks
        self.dtype = model.dtype
        self.exact_passes = model.options.exact_passes

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    def computes(self, shape: Hashable) -> None:
        pass

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        yield self._model.on_meta[name]

    def text_encoder(self, sweeps: int) -> AbstractContextManager[Any]:  # noqa: ARG002
        return self.use("text_encoder")

    def connectors(self, texts: int) -> AbstractContextManager[Any]:  # noqa: ARG002
        return self.use("connectors")

    @contextmanager
    def transformer(self, distilled: bool = False) -> Iterator[MetaTransformer]:  # noqa: ARG002
        module: Any = self._model.on_meta["transformer"]
        yield MetaTransformer(module, module.transformer_blocks[: self._sampled_blocks])

    @contextmanager
    def adapted(self, transformer: MetaTransformer, distilled: bool, sweeps: int) -> Iterator[Blocks]:  # noqa: ARG002
        with ExitStack() as stack:
            names = self._model.loras(distilled)
            for name in names:
                adapters: Any = self._model.on_meta[name]
                stack.enter_context(adapters.attached(transformer.module))
            graphs = self._graphs.stage(tuple(names), lambda _: (ANY_SLOT,)) if self._graphs else None
            yield Blocks(lambda: transformer.sample, graphs)

    def sharing(
        self,
        passes: frozenset[Pass],
        perturbed_blocks: frozenset[int],  # noqa: ARG002  of the sample
        sweeps: int,
        work: Any,
    ) -> AbstractContextManager[Share]:
        sharing, blocks = self._model.sharing, self.config.num_layers
        if sharing is None:
            return nullcontext(Alone(passes))
        return sharing.on_meta().stage(passes, self._perturbed_blocks, blocks, sweeps, work)

    def latent_statistics(self) -> ChannelStatistics:
        shape = self._model.files.video_vae["latents_mean"].shape
        return ChannelStatistics(*(torch.empty(shape, dtype=self.dtype, device=META) for _ in range(2)))
