"""One opened model: its networks, how each is made, and how many bytes each stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig, usable_config
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.model.adapters import DISTILLED_LORA, adapters_recipe
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.placed import PlacedModel
from ltx_a2v.model.recipe import Recipe, split
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.quantization.choose import ChosenPolicies, choose_policies
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.residency.network import Network, Placement
from ltx_a2v.residency.sizes import Sizes
from ltx_a2v.settings.loading import LoadOptions


@dataclass(frozen=True)
class Model:
    """Networks by name. Weights are read when a network is used; `within` says where they then live."""

    files: ModelFiles
    device: torch.device
    dtype: torch.dtype
    options: LoadOptions
    policies: ChosenPolicies
    text_policy: QuantizationPolicy
    recipes: Mapping[str, Recipe]
    on_meta: Mapping[str, nn.Module]
    """Every network's module without memory, to plan with; nothing is ever loaded into these."""
    networks: Mapping[str, Network]

    @classmethod
    def open(
        cls, files: ModelFiles, device: torch.device, dtype: torch.dtype, options: LoadOptions | None = None
    ) -> Model:
        """Checks every tensor of every file against the networks; reads no weights.

        Raises `InvalidModel` or `InvalidMode` when the files do not hold what the options want.
        """
        options = options or LoadOptions()
        policies = choose_policies(
            options.transformer_quantization,
            options.keep_bf16_blocks,
            files.paths.checkpoint,
            files.stored,
            files.transformer,
            files.connectors,
        )
        text_policy = QuantizationPolicy.for_text_encoder(options.text_encoder_quantization)
        for policy in (policies.transformer, text_policy):
            policy.check_device(device)
        loras = _open_loras(files, options)
        recipes = _make_recipes(files, dtype, policies, text_policy, loras)
        on_meta = _checked_modules(files, recipes, loras)
        networks = {name: Network(recipe, device) for name, recipe in recipes.items()}
        return cls(files, device, dtype, options, policies, text_policy, recipes, on_meta, networks)

    @property
    def config(self) -> ModelConfig:
        return self.files.config

    @property
    def style_loras(self) -> tuple[str, ...]:
        return tuple(name for name in self.recipes if name.startswith("lora "))

    @cached_property
    def sizes(self) -> Mapping[str, Sizes]:
        return {name: _sizes_of(recipe, self.on_meta[name]) for name, recipe in self.recipes.items()}

    @property
    def host_bytes(self) -> int:
        """What copies of weights take of host memory now."""
        return sum(network.host_bytes for network in self.networks.values())

    def within(self, placements: Mapping[str, Placement]) -> PlacedModel:
        """This model with its weights where a plan's placements say."""
        return PlacedModel(self, placements)

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Give the device's memory back; with "nothing", the host's too."""
        for network in self.networks.values():
            network.release(to)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _open_loras(files: ModelFiles, options: LoadOptions) -> dict[str, LoraFile]:
    """The style LoRAs in the order given, then the distilled one."""
    styles = {f"lora {i}": LoraFile.open(lora.path, lora.strength) for i, lora in enumerate(options.loras)}
    return {**styles, DISTILLED_LORA: files.distilled_lora}


def _make_recipes(
    files: ModelFiles,
    dtype: torch.dtype,
    policies: ChosenPolicies,
    text_policy: QuantizationPolicy,
    loras: Mapping[str, LoraFile],
) -> dict[str, Recipe]:
    config = files.config
    vae_keys = keys.video_vae(config.vae_stages)
    encoder, decoder = video_vae.encoder_entries(files.video_vae), video_vae.decoder_entries(files.video_vae)
    return {
        "text_encoder": text.gemma_recipe(files.gemma, dtype, text_policy),
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
        **{name: adapters_recipe(file, config.num_layers, dtype) for name, file in loras.items()},
    }


def _checked_modules(
    files: ModelFiles, recipes: Mapping[str, Recipe], loras: Mapping[str, LoraFile]
) -> dict[str, nn.Module]:
    """Every network on `meta`. Raises `InvalidModel` where a file does not hold exactly the network's tensors."""
    described_by = {"text_encoder": files.gemma.root / "config.json", "upsampler": files.paths.spatial_upsampler}
    modules = {}
    for name, recipe in recipes.items():
        if name not in loras:
            with usable_config(described_by.get(name, files.paths.checkpoint)):
                modules[name] = recipe.check()
    shapes = transformer.linear_shapes(modules["transformer"])
    for name, lora in loras.items():
        lora.check_fits(shapes)
        modules[name] = recipes[name].check()
    text.check_tokenizer(files.gemma)
    return modules


def _sizes_of(recipe: Recipe, module: nn.Module) -> Sizes:
    rest, parts, _ = split(recipe, module)
    return Sizes(rest.part.layout.nbytes, tuple(part.part.layout.nbytes for part in parts), recipe.reading(module))
