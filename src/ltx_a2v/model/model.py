"""The networks of one model: how each is made, where its weights are, and what uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import usable_config
from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.hardware.budget import host_memory_available
from ltx_a2v.kernels import planned_for
from ltx_a2v.model.adapters import adapters_loader
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.planning.needs import WORKSPACES, Shape, measure_needs, sizes_of
from ltx_a2v.planning.plan import Keep, PhaseNeed, Plan, make_plan
from ltx_a2v.planning.prediction import Prediction, predict
from ltx_a2v.planning.probe import Speeds, probe
from ltx_a2v.quantization.choose import choose_policies
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.network import Network, Placement
from ltx_a2v.residency.stream import BlockStream
from ltx_a2v.settings.loading import LoadOptions


class Networks:
    """Weights come from `files` and compute on `device` in `dtype`. Raises `InvalidModel` or `InvalidMode` when the
    files do not hold what the options want."""

    def __init__(
        self, files: ModelFiles, device: torch.device, dtype: torch.dtype, options: LoadOptions | None = None
    ) -> None:
        self.files = files
        self.device = device
        self.dtype = dtype
        self.options = options or LoadOptions()
        self.placements: Mapping[str, Placement] = {}
        """By network; what is not named is read from the file for each use."""
        self.transformer_policy, self.connectors_policy = choose_policies(
            self.options.transformer_quantization,
            self.options.keep_bf16_blocks,
            files.paths.checkpoint,
            files.stored,
            files.transformer,
            files.connectors,
        )
        self.text_policy = QuantizationPolicy.for_text_encoder(self.options.text_encoder_quantization)
        for policy in (self.transformer_policy, self.text_policy):
            policy.check_device(device)
        self._loras = {
            **{f"lora {i}": LoraFile.open(lora.path, lora.strength) for i, lora in enumerate(self.options.loras)},
            "distilled": files.distilled_lora,
        }
        self._loaders = self._make_loaders()
        self._modules = self._checked_modules()
        self._networks = {name: Network(loader, device) for name, loader in self._loaders.items()}
        self._sizes = {name: sizes_of(loader, self._modules[name]) for name, loader in self._loaders.items()}
        self._needs: dict[Shape, list[PhaseNeed]] = {}

    def _make_loaders(self) -> dict[str, TensorLoader]:
        files, config, dtype = self.files, self.files.config, self.dtype
        vae_keys = keys.video_vae(config.vae_stages)
        encoder, decoder = video_vae.encoder_entries(files.video_vae), video_vae.decoder_entries(files.video_vae)
        connectors = text.connectors_blueprint(config, text.hidden_state_count(files.gemma), files.connectors)
        denoiser = transformer.transformer_blueprint(config, files.transformer)

        def plain(
            name: str, make: Callable[[], nn.Module], entries: Entries, key_map: KeyMap = keys.AS_IN_FILE
        ) -> TensorLoader:
            return TensorLoader(Blueprint(name, make, entries, key_map), dtype)

        return {
            "text_encoder": TensorLoader(text.gemma_blueprint(files.gemma), dtype, self.text_policy),
            "connectors": TensorLoader(connectors, dtype, self.connectors_policy),
            "audio_encoder": plain(
                "audio encoder",
                lambda: audio_vae.build_audio_encoder(config),
                files.audio_encoder,
                keys.AUDIO_ENCODER,
            ),
            "video_encoder": plain("video encoder", lambda: video_vae.build_video_encoder(config), encoder, vae_keys),
            "transformer": TensorLoader(denoiser, dtype, self.transformer_policy),
            "upsampler": plain(
                "upsampler", lambda: upsampler.build_upsampler(files.upsampler_arguments), files.upsampler
            ),
            "video_decoder": plain("video decoder", lambda: video_vae.build_video_decoder(config), decoder, vae_keys),
            **{name: adapters_loader(file, config.num_layers, dtype) for name, file in self._loras.items()},
        }

    def _checked_modules(self) -> dict[str, nn.Module]:
        """Every network on `meta`, to plan with: nothing is ever loaded into these."""
        files = self.files
        described_by = {"text_encoder": files.gemma.root / "config.json", "upsampler": files.paths.spatial_upsampler}
        modules = {}
        for name, loader in self._loaders.items():
            if name not in self._loras:
                with usable_config(described_by.get(name, files.paths.checkpoint)):
                    modules[name] = loader.check()
        shapes = transformer.linear_shapes(modules["transformer"])
        for name, lora in self._loras.items():
            lora.check_fits(shapes)
            modules[name] = self._loaders[name].check()
        text.check_tokenizer(files.gemma)
        return modules

    def plan(self, shape: Shape, budget: int | None, keep: Keep) -> Plan:
        """Raises `BudgetTooSmall`."""
        if shape not in self._needs:
            workspaces = WORKSPACES if self.device.type == "cuda" else 0
            with planned_for(self.device):
                self._needs[shape] = measure_needs(self.files, self._modules, shape, self.dtype, workspaces)
        in_host = sum(network.host_bytes for network in self._networks.values())
        return make_plan(
            self._sizes,
            self._needs[shape],
            budget,
            host_memory_available() + in_host,
            keep,
            host_limit=self.options.host_memory,
        )

    def probe(self, shape: Shape) -> Speeds:
        """Seconds of work on the device; needs what a step with one block resident needs."""
        return probe(self._loaders, self.files.config, shape, self.device, self.dtype)

    def predict(self, plan: Plan, speeds: Speeds, steps: int, texts: int) -> Prediction:
        return predict(plan, self._sizes, self._loaders, speeds, steps, texts)

    def preload(self) -> None:
        """Bring every network to where its placement keeps it."""
        for name, placement in self.placements.items():
            if placement.home != "file":
                self._networks[name].preload(placement)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """The module of a network that is not streamed."""
        with self._networks[name].use(self._placement(name)) as loaded:
            yield loaded.module

    @contextmanager
    def text_encoder(self, texts: int) -> Iterator[Any]:
        """Gemma, called `texts` times, without its embedding table (see `text.embed`)."""
        with self._networks["text_encoder"].use(self._placement("text_encoder")) as loaded:
            text.finish_gemma(loaded.module, self.device)
            with loaded.hooked(texts) as module:
                yield module

    @contextmanager
    def connectors(self, texts: int) -> Iterator[Any]:
        with self._networks["connectors"].use(self._placement("connectors")) as loaded, loaded.hooked(texts) as module:
            yield module

    @contextmanager
    def transformer(self) -> Iterator[BlockStream]:
        with self._networks["transformer"].use(self._placement("transformer")) as loaded:
            yield loaded

    @contextmanager
    def adapted(self, denoiser: BlockStream, distilled: bool) -> Iterator[list[BlockStream]]:
        """The transformer with its style LoRAs, and in stage 2 the distilled one, beside it."""
        names = [name for name in self._loras if distilled or name != "distilled"]
        with ExitStack() as stack:
            adapters = [stack.enter_context(self._networks[name].use(self._placement(name))) for name in names]
            for loaded in adapters:
                stack.enter_context(loaded.module.attached(denoiser.module))
            yield adapters

    def latent_statistics(self) -> ChannelStatistics:
        return ChannelStatistics(self._tensor("latents_mean"), self._tensor("latents_std"))

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        for network in self._networks.values():
            network.release(to)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _placement(self, name: str) -> Placement:
        return self.placements.get(name, Placement())

    def _tensor(self, name: str) -> Tensor:
        return read_tensor(self.files.video_vae[name]).to(self.device, self.dtype)
