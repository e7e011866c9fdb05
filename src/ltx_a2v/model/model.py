"""The networks of one model: how each is made, where its weights are, and what uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import usable_config
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.hardware.budget import host_memory_available
from ltx_a2v.kernels import planned_for
from ltx_a2v.model.adapters import adapters_recipe
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.recipe import Recipe
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.networks.video_vae import ChannelStatistics
from ltx_a2v.planning.needs import WORKSPACES, Shape, measure_needs, sizes_of
from ltx_a2v.planning.plan import Keep, PhaseNeed, Plan, make_plan
from ltx_a2v.planning.prediction import Prediction, predict
from ltx_a2v.planning.probe import Speeds, probe
from ltx_a2v.quantization.choose import choose_policies
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.residency.network import Loaded, Network, Placement
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
        self.policies = choose_policies(
            self.options.transformer_quantization,
            self.options.keep_bf16_blocks,
            files.paths.checkpoint,
            files.stored,
            files.transformer,
            files.connectors,
        )
        self.text_policy = QuantizationPolicy.for_text_encoder(self.options.text_encoder_quantization)
        for policy in (self.policies.transformer, self.text_policy):
            policy.check_device(device)
        self._loras = {
            **{f"lora {i}": LoraFile.open(lora.path, lora.strength) for i, lora in enumerate(self.options.loras)},
            "distilled": files.distilled_lora,
        }
        self._recipes = self._make_recipes()
        self._modules = self._checked_modules()
        self._networks = {name: Network(recipe, device) for name, recipe in self._recipes.items()}
        self._sizes = {name: sizes_of(recipe, self._modules[name]) for name, recipe in self._recipes.items()}
        self._needs: dict[Shape, list[PhaseNeed]] = {}

    def _make_recipes(self) -> dict[str, Recipe]:
        files, config, dtype = self.files, self.files.config, self.dtype
        policies = self.policies
        vae_keys = keys.video_vae(config.vae_stages)
        encoder, decoder = video_vae.encoder_entries(files.video_vae), video_vae.decoder_entries(files.video_vae)
        return {
            "text_encoder": text.gemma_recipe(files.gemma, dtype, self.text_policy),
            "connectors": text.connectors_recipe(
                config,
                text.hidden_state_count(files.gemma),
                files.connectors,
                dtype,
                policies.connectors,
                policies.already_converted,
            ),
            "audio_encoder": Recipe(
                "audio encoder",
                lambda: audio_vae.build_audio_encoder(config),
                files.audio_encoder,
                dtype,
                key_map=keys.AUDIO_ENCODER,
            ),
            "video_encoder": Recipe(
                "video encoder", lambda: video_vae.build_video_encoder(config), encoder, dtype, key_map=vae_keys
            ),
            "transformer": transformer.transformer_recipe(
                config, files.transformer, dtype, policies.transformer, policies.already_converted
            ),
            "upsampler": Recipe(
                "upsampler", lambda: upsampler.build_upsampler(files.upsampler_arguments), files.upsampler, dtype
            ),
            "video_decoder": Recipe(
                "video decoder", lambda: video_vae.build_video_decoder(config), decoder, dtype, key_map=vae_keys
            ),
            **{name: adapters_recipe(file, config.num_layers, dtype) for name, file in self._loras.items()},
        }

    def _checked_modules(self) -> dict[str, nn.Module]:
        """Every network on `meta`, to plan with: nothing is ever loaded into these."""
        files = self.files
        described_by = {"text_encoder": files.gemma.root / "config.json", "upsampler": files.paths.spatial_upsampler}
        modules = {}
        for name, recipe in self._recipes.items():
            if name not in self._loras:
                with usable_config(described_by.get(name, files.paths.checkpoint)):
                    modules[name] = recipe.check()
        shapes = transformer.linear_shapes(modules["transformer"])
        for name, lora in self._loras.items():
            lora.check_fits(shapes)
            modules[name] = self._recipes[name].check()
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
        return probe(self._recipes, self.files.config, shape, self.device, self.dtype)

    def predict(self, plan: Plan, speeds: Speeds, steps: int, texts: int) -> Prediction:
        return predict(plan, self._sizes, self._recipes, speeds, steps, texts)

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
    def transformer(self) -> Iterator[Loaded]:
        with self._networks["transformer"].use(self._placement("transformer")) as loaded:
            yield loaded

    @contextmanager
    def adapted(self, denoiser: Loaded, distilled: bool) -> Iterator[list[Loaded]]:
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
