"""The networks of one model: each built, used and freed within a `with`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.model_files import Entries, ModelFiles
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.networks import audio_vae, lora, text, transformer, upsampler, video_vae
from ltx_a2v.networks.build import check_entries, load_weights, release, shapes_of
from ltx_a2v.networks.video_vae import ChannelStatistics


class Networks:
    """Weights come from `files` and live on `device` in `dtype` while they are used."""

    def __init__(self, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> None:
        self.files = files
        self.device = device
        self.dtype = dtype
        self._check()

    def _check(self) -> None:
        """Every tensor of every network is there, fits, and nothing is left over. Raises `InvalidModel`."""
        files = self.files
        denoiser = transformer.build_transformer(files.config)
        for network, module, entries in (
            ("transformer", denoiser, files.transformer),
            ("text connectors", text.build_connectors(files.config, files.gemma), files.connectors),
            ("video encoder", video_vae.build_video_encoder(files.config), video_vae.encoder_entries(files.video_vae)),
            ("video decoder", video_vae.build_video_decoder(files.config), video_vae.decoder_entries(files.video_vae)),
            ("audio encoder", audio_vae.build_audio_encoder(files.config), files.audio_encoder),
            ("upsampler", upsampler.build_upsampler(files.upsampler_arguments), files.upsampler),
            ("text encoder", text.build_gemma(files.gemma), files.gemma.entries),
        ):
            check_entries(network, shapes_of(module), entries)
        files.distilled_lora.check_fits(transformer.linear_shapes(denoiser))

    @contextmanager
    def _loaded(self, module: nn.Module, entries: Entries) -> Iterator[Any]:
        try:
            load_weights(module, entries, self.device, self.dtype)
            yield module
        finally:
            release(module)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @contextmanager
    def text_encoder(self) -> Iterator[Any]:
        gemma = text.build_gemma(self.files.gemma)
        with self._loaded(gemma, self.files.gemma.entries):
            text.finish_gemma(gemma, self.device)
            yield gemma

    @contextmanager
    def connectors(self) -> Iterator[Any]:
        with self._loaded(text.build_connectors(self.files.config, self.files.gemma), self.files.connectors) as module:
            yield module

    @contextmanager
    def audio_encoder(self) -> Iterator[Any]:
        with self._loaded(audio_vae.build_audio_encoder(self.files.config), self.files.audio_encoder) as module:
            yield module

    @contextmanager
    def video_encoder(self) -> Iterator[Any]:
        entries = video_vae.encoder_entries(self.files.video_vae)
        with self._loaded(video_vae.build_video_encoder(self.files.config), entries) as module:
            yield module

    @contextmanager
    def video_decoder(self) -> Iterator[Any]:
        entries = video_vae.decoder_entries(self.files.video_vae)
        with self._loaded(video_vae.build_video_decoder(self.files.config), entries) as module:
            yield module

    @contextmanager
    def upsampler(self) -> Iterator[Any]:
        with self._loaded(upsampler.build_upsampler(self.files.upsampler_arguments), self.files.upsampler) as module:
            yield module

    @contextmanager
    def transformer(self) -> Iterator[Any]:
        with self._loaded(transformer.build_transformer(self.files.config), self.files.transformer) as module:
            yield module

    @contextmanager
    def distilled(self, denoiser: nn.Module) -> Iterator[None]:
        """The transformer with the distilled LoRA of stage 2 beside it."""
        adapters = lora.load_adapters([self.files.distilled_lora], self.device, self.dtype)
        with lora.attached(denoiser, adapters):
            yield

    def latent_statistics(self) -> ChannelStatistics:
        return ChannelStatistics(self._tensor("latents_mean"), self._tensor("latents_std"))

    def _tensor(self, name: str) -> Tensor:
        return read_tensor(self.files.video_vae[name]).to(self.device, self.dtype)
