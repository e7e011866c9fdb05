"""One opened model: its networks, their loaders and their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from ltx_a2v.checkpoint.config import usable_config
from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.lora import LoraFile
from ltx_a2v.diffusion.graphs import BlockGraphs, graphs_for
from ltx_a2v.model.adapters import DISTILLED_LORA, adapters_loader
from ltx_a2v.model.files import ModelFiles
from ltx_a2v.model.in_use import Sharing
from ltx_a2v.model.placed import PlacedModel
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.quantization.choose import choose_policies, choose_text_policy, read_stored
from ltx_a2v.quantization.modes import TEXT_ENCODER_MODES
from ltx_a2v.quantization.policy import QuantizationPolicy
from ltx_a2v.residency.blueprint import Blueprint
from ltx_a2v.residency.loader import TensorLoader
from ltx_a2v.residency.network import Network, Placement
from ltx_a2v.residency.shared_memory import SharedMemory
from ltx_a2v.residency.sizes import Sizes
from ltx_a2v.settings.loading import LoadOptions
from ltx_a2v.versions import ModelConfig


@dataclass(frozen=True)
class Model:
    """Networks by name. Weights are read when a network is used; `within` says where they then live."""

    files: ModelFiles
    device: torch.device
    dtype: torch.dtype
    options: LoadOptions
    transformer_policy: QuantizationPolicy
    connectors_policy: QuantizationPolicy
    text_policy: QuantizationPolicy
    loaders: Mapping[str, TensorLoader]
    on_meta: Mapping[str, nn.Module]
    """Every network's module without memory, to plan with; nothing is ever loaded into these."""
    networks: Mapping[str, Network]
    graphs: BlockGraphs | None = None
    """CUDA graphs of the transformer's blocks; None where they are off, or without a GPU."""
    sharing: Sharing | None = None
    """Other processes that compute some of the guided passes; None where this one computes all."""

    @classmethod
    def open(
        cls, files: ModelFiles, device: torch.device, dtype: torch.dtype, options: LoadOptions | None = None
    ) -> Model:
        """Checks every tensor of every file against the networks; reads no weights.

        Raises `InvalidModel` or `InvalidMode` when the files do not hold what the options want.
        """
        options = options or LoadOptions()
        wanted = options.transformer_quantization
        transformer_policy, connectors_policy = choose_policies(
            None if wanted in ("auto", "file") else wanted,  # "auto" begins with the file's own: `A2VPipeline` decides
            options.keep_bf16_blocks,
            files.paths.checkpoint,
            files.stored,
            files.transformer,
            files.connectors,
            files.config.version.covered,
        )
        text_policy = choose_text_policy(
            options.text_encoder_quantization,
            files.paths.gemma_root,
            read_stored(files.paths.gemma_root, files.gemma.metadata, TEXT_ENCODER_MODES),
            files.config.version.covered.text_encoder,
        )
        for policy in (transformer_policy, text_policy):
            policy.check_device(device)
        loras = _open_loras(files, options)
        loaders = _make_loaders(files, device, dtype, transformer_policy, connectors_policy, text_policy, loras)
        on_meta = _checked_modules(files, loaders, loras)
        networks = {name: Network(loader, device) for name, loader in loaders.items()}
        return cls(
            files,
            device,
            dtype,
            options,
            transformer_policy,
            connectors_policy,
            text_policy,
            loaders,
            on_meta,
            networks,
            graphs_for(device) if options.cuda_graphs else None,
        )

    @property
    def config(self) -> ModelConfig:
        return self.files.config

    @property
    def style_loras(self) -> tuple[str, ...]:
        return tuple(name for name in self.loaders if name.startswith("lora "))

    def share_host_copies(self, memory: Sequence[int]) -> list[SharedMemory]:
        """Keep copies of the networks that are streamed in memory files of several processes, one for each network.

        Processes share them as far as they open the same files in the same format. The caller closes what is returned.
        """
        stats = [path.stat() for _, path in self.files.paths.described()]
        origin = repr([(status.st_ino, status.st_size, status.st_mtime_ns) for status in stats])
        shared = [SharedMemory(fd, origin) for fd in memory]
        for name, one in zip(("transformer", *self.style_loras), shared, strict=False):
            self.networks[name].shared = one
        return shared

    def loras(self, distilled: bool) -> tuple[str, ...]:
        """The networks of the LoRAs to apply, in order; none for a distilled checkpoint without style LoRAs."""
        return self.style_loras + (DISTILLED_LORA,) * (distilled and DISTILLED_LORA in self.loaders)

    @cached_property
    def sizes(self) -> Mapping[str, Sizes]:
        return {name: _sizes_of(loader, self.on_meta[name]) for name, loader in self.loaders.items()}

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that copies of weights take now."""
        return sum(network.host_bytes for network in self.networks.values())

    def within(self, placements: Mapping[str, Placement], graphs: bool = False) -> PlacedModel:
        """This model with its weights where a plan's placements say. `graphs`: whether CUDA graphs may be captured;
        where not, those of earlier requests are released."""
        if self.graphs is not None and not graphs:
            self.graphs.release()
        return PlacedModel(self, placements, self.graphs if graphs else None)

    def release(self, to: Literal["host", "nothing"] = "nothing") -> None:
        """Free the device's memory; with "nothing", the host's too."""
        for network in self.networks.values():
            network.release(to)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _open_loras(files: ModelFiles, options: LoadOptions) -> dict[str, LoraFile]:
    """The style LoRAs in the order given, then the distilled one, if the checkpoint needs it."""
    keys = files.config.version.keys.lora
    styles = {f"lora {i}": LoraFile.open(lora.path, keys, lora.strength) for i, lora in enumerate(options.loras)}
    if files.distilled_lora is None:
        return styles
    return {**styles, DISTILLED_LORA: replace(files.distilled_lora, strength=options.distilled_lora_strength)}


def _make_loaders(
    files: ModelFiles,
    device: torch.device,
    dtype: torch.dtype,
    transformer_policy: QuantizationPolicy,
    connectors_policy: QuantizationPolicy,
    text_policy: QuantizationPolicy,
    loras: Mapping[str, LoraFile],
) -> dict[str, TensorLoader]:
    config, keys = files.config, files.config.version.keys
    vae_keys = keys.video_vae(config.vae_stages)
    encoder, decoder = video_vae.encoder_entries(files.video_vae), video_vae.decoder_entries(files.video_vae)
    connectors = text.connectors_blueprint(config, text.hidden_state_count(files.gemma), files.connectors)
    denoiser = transformer.transformer_blueprint(config, files.transformer)
    decoder_layout = video_vae.best_layout(device)

    def plain(name: str, make: Callable[[], nn.Module], entries: Entries, key_map: KeyMap) -> TensorLoader:
        return TensorLoader(Blueprint(name, make, entries, key_map), dtype)

    return {
        "text_encoder": TensorLoader(text.gemma_blueprint(files.gemma), dtype, text_policy),
        "connectors": TensorLoader(connectors, dtype, connectors_policy),
        "audio_encoder": plain(
            "audio encoder",
            lambda: audio_vae.build_audio_encoder(config),
            files.audio_encoder,
            keys.audio_encoder,
        ),
        "video_encoder": plain("video encoder", lambda: video_vae.build_video_encoder(config), encoder, vae_keys),
        "transformer": TensorLoader(denoiser, dtype, transformer_policy),
        "upsampler": plain(
            "upsampler",
            lambda: upsampler.build_upsampler(files.upsampler_arguments),
            files.upsampler,
            keys.upsampler,
        ),
        "video_decoder": plain(
            "video decoder", lambda: video_vae.build_video_decoder(config, decoder_layout), decoder, vae_keys
        ),
        **{name: adapters_loader(file, config.num_layers, dtype) for name, file in loras.items()},
    }


def _checked_modules(
    files: ModelFiles, loaders: Mapping[str, TensorLoader], loras: Mapping[str, LoraFile]
) -> dict[str, nn.Module]:
    """Every network on `meta`. Raises `InvalidModel` where a file does not hold exactly the network's tensors."""
    described_by = {"text_encoder": files.gemma.root / "config.json", "upsampler": files.paths.spatial_upsampler}
    modules = {}
    for name, loader in loaders.items():
        if name not in loras:
            with usable_config(described_by.get(name, files.paths.checkpoint)):
                modules[name] = loader.check()
    shapes = transformer.linear_shapes(modules["transformer"])
    for name, lora in loras.items():
        lora.check_fits(shapes)
        modules[name] = loaders[name].check()
    text.check_tokenizer(files.gemma)
    return modules


def _sizes_of(loader: TensorLoader, module: nn.Module) -> Sizes:
    rest, blocks = loader.blueprint.split(module)
    return Sizes(rest.nbytes, tuple(block.nbytes for block in blocks), loader.reading(module))
