"""A model whose weights are placed as a plan says."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.diffusion.graphs import BlockGraphs, StageGraphs
from ltx_a2v.diffusion.guidance import Pass
from ltx_a2v.hardware.host_memory import host_memory_available
from ltx_a2v.model.in_use import Alone, Blocks, Share
from ltx_a2v.networks import text
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.residency.ahead import ReadAhead, Reading
from ltx_a2v.residency.network import Placement
from ltx_a2v.residency.stream import BlockStream, sweep_together
from ltx_a2v.versions import ModelConfig

if TYPE_CHECKING:
    from ltx_a2v.model.model import Model


CACHED_SHARE = 0.5
"""Share of the host's free memory that files read ahead may fill: more might displace what will be used first."""


class PlacedModel:
    """Loads each network when it is used, by its placement; without one it is loaded from the file."""

    def __init__(self, model: Model, placements: Mapping[str, Placement], graphs: BlockGraphs | None = None) -> None:
        self._model = model
        self._placements = placements
        self._graphs = graphs
        self._held: dict[str, BlockStream] = {}
        """LoRAs that are loaded as long as the transformer."""

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def exact_passes(self) -> bool:
        return self._model.options.exact_passes

    def computes(self, shape: Hashable) -> None:
        if self._graphs is not None:
            self._graphs.only_for(shape)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        with self._load(name) as loaded:
            yield loaded.module

    @contextmanager
    def text_encoder(self, sweeps: int) -> Iterator[Any]:
        with self._load("text_encoder") as loaded:
            text.finish_gemma(loaded.module, self.device)
            with loaded.hooked(sweeps) as module:
                yield module

    @contextmanager
    def connectors(self, texts: int) -> Iterator[Any]:
        with self._load("connectors") as loaded, loaded.hooked(texts) as module:
            yield module

    @contextmanager
    def transformer(self, distilled: bool = False) -> Iterator[BlockStream]:
        with ExitStack() as stack:
            loaded = stack.enter_context(self._load("transformer"))
            for name in self._model.loras(distilled) if distilled else ():
                self._held[name] = stack.enter_context(self._load(name))
            stack.callback(self._held.clear)
            yield loaded

    @contextmanager
    def adapted(self, transformer: BlockStream, distilled: bool, sweeps: int) -> Iterator[Blocks]:
        names = self._model.loras(distilled)
        with ExitStack() as stack:
            adapters = [self._held.get(name) or stack.enter_context(self._load(name)) for name in names]
            for adapter in adapters:
                stack.enter_context(adapter.module.attached(transformer.module))
            for loaded in (transformer, *adapters):
                loaded.begin(sweeps)
            graphs = stack.enter_context(self._stage_graphs(names, transformer, *adapters))
            yield Blocks(lambda: sweep_together(transformer, *adapters), graphs)

    @contextmanager
    def _stage_graphs(self, adapters: Sequence[str], *networks: BlockStream) -> Iterator[StageGraphs | None]:
        """Graphs are kept between stages and requests where all weights that they compute with are."""
        graphs = self._graphs
        if graphs is None or graphs.refused or self.exact_passes:
            yield None
            return
        for network in networks:
            network.before_close = graphs.release
        try:
            yield graphs.stage(tuple(adapters), lambda index: tuple(network.place_of(index) for network in networks))
        finally:
            if any(self._placement(name).home != "device" for name in ("transformer", *adapters)):
                graphs.release()

    def sharing(
        self, passes: frozenset[Pass], perturbed_blocks: frozenset[int], sweeps: int, work: Any
    ) -> AbstractContextManager[Share]:
        sharing, blocks = self._model.sharing, self.config.num_layers
        if sharing is None:
            return nullcontext(Alone(passes))
        return sharing.stage(passes, perturbed_blocks, blocks, sweeps, work)

    def latent_statistics(self) -> ChannelStatistics:
        return ChannelStatistics(self._statistic("latents_mean"), self._statistic("latents_std"))

    @contextmanager
    def reading_ahead(self) -> Iterator[ReadAhead]:
        """A context in which a thread reads what the phases after the text encoder will need, into host memory.

        By default on a GPU: on a CPU the reading and the computing share the cores.
        """
        wanted = self._model.options.read_ahead
        enabled = self.device.type == "cuda" if wanted is None else wanted
        try:
            with ReadAhead(self._readings() if enabled else []) as ahead:
                yield ahead
        finally:
            for network in self._model.networks.values():
                network.drop_prepared()

    def _readings(self) -> list[Reading]:
        copies = sum(self._model.sizes[name].in_host(placement) for name, placement in self._placements.items())
        left = host_memory_available() + self._model.host_bytes - copies
        readings: list[Reading] = []
        for name in self._in_order_of_use():
            entries = self._model.loaders[name].blueprint.loaded_entries.values()
            in_files = sum(entry.nbytes for entry in entries)
            placement = self._placements.get(name, Placement())
            reading = self._model.networks[name].ahead(placement, page_cache=in_files <= left * CACHED_SHARE)
            if reading is not None:
                readings.append(reading)
                left -= in_files
        return readings

    def _in_order_of_use(self) -> list[str]:
        loras = self._model.loras(distilled=True)
        return ["audio_encoder", "video_encoder", "transformer", *loras, "upsampler", "video_decoder"]

    def preload(self) -> None:
        """Load every network to the home of its placement."""
        for name, placement in self._placements.items():
            if placement.home != "file":
                self._model.networks[name].preload(placement)

    @contextmanager
    def _load(self, name: str) -> Iterator[BlockStream]:
        with self._model.networks[name].use(self._placement(name)) as loaded:
            yield loaded

    def _placement(self, name: str) -> Placement:
        return self._placements.get(name, Placement())

    def _statistic(self, name: str) -> Tensor:
        return read_tensor(self._model.files.video_vae[name]).to(self.device, self.dtype)
