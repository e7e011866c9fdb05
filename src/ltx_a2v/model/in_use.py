"""The interface between a model and the phases of a generation: modules that are ready to compute while in use.

It has two implementations: a model whose weights are placed on a device, and the same model on `meta`, on which the
planner runs the same phases to measure their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ltx_a2v.diffusion.graphs import StageGraphs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.diffusion.sampler import Velocities
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.versions import ModelConfig


@dataclass(frozen=True)
class Blocks:
    """The transformer's blocks during one stage."""

    sweep: Callable[[], Iterable[Any]]
    """The blocks in order, each ready to compute until the next one is requested."""
    graphs: StageGraphs | None = None
    """CUDA graphs of the blocks, where they are used."""


class Share(Protocol):
    """The passes of a stage that this process computes, and how it gets the others."""

    @property
    def own(self) -> frozenset[Pass]: ...

    def gathered(self, velocities: Velocities) -> Velocities:
        """`velocities` gives those of its own passes; the result gives those of all."""


@dataclass(frozen=True)
class Alone:
    """A `Share` of all passes: no other process computes any."""

    own: frozenset[Pass]

    def gathered(self, velocities: Velocities) -> Velocities:
        return velocities


class Sharing(Protocol):
    """Divides the passes between several processes (`parallel.sharing`)."""

    def stage(
        self, passes: frozenset[Pass], perturbed_blocks: frozenset[int], num_blocks: int, sweeps: int, work: Any
    ) -> AbstractContextManager[Share]:
        """The share of this process in a stage of so many sweeps; `work` is what the others need to run it too."""

    def on_meta(self) -> Sharing:
        """The same share, to plan with."""


class LoadedTransformer(Protocol):
    """The transformer with everything outside its blocks on the device."""

    @property
    def module(self) -> Any: ...


class ModelInUse(Protocol):
    """Networks by name (`video_encoder`, `upsampler`, …), on `device` and in `dtype`."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def exact_passes(self) -> bool: ...

    def computes(self, shape: Hashable) -> None:
        """What is computed from here on has this shape: CUDA graphs of any other are released."""

    def use(self, name: str) -> AbstractContextManager[Any]:
        """The module of a network whose blocks are not streamed."""

    def text_encoder(self, sweeps: int) -> AbstractContextManager[Any]:
        """Gemma without its embedding table (see `networks.text.embed`), to be called `sweeps` times."""

    def connectors(self, texts: int) -> AbstractContextManager[Any]:
        """The text connectors, to be called `texts` times."""

    def transformer(self, distilled: bool = False) -> AbstractContextManager[LoadedTransformer]:
        """The transformer, for both stages; with the distilled LoRA where both use it, so that it is loaded once."""

    def adapted(self, transformer: Any, distilled: bool, sweeps: int) -> AbstractContextManager[Blocks]:
        """The transformer's blocks with the style LoRAs, and the distilled one where wanted, for `sweeps` sweeps."""

    def sharing(
        self, passes: frozenset[Pass], perturbed_blocks: frozenset[int], sweeps: int, work: Any
    ) -> AbstractContextManager[Share]:
        """This process's share of the passes of a stage: see `Sharing.stage`."""

    def latent_statistics(self) -> ChannelStatistics:
        """Of the video VAE's latents."""
