"""The video VAE: picture -> latent, latent -> frames, in tiles where the video is large.

Latent frame 0 holds one frame, every later one eight, so the latents [s, e) decode to the frames 8s .. 8(e-1): a tile
that starts at s > 0 gives the last of the eight frames of latent s, then all of the following. Neighbouring tiles
overlap and are blended linearly. The tile layout is the reference's (`tiling_config_for_vae`) whatever memory is
available, so that the same seed gives the same picture everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ltx_a2v.checkpoint.entries import Entries
from ltx_a2v.kernels import layout_of
from ltx_a2v.networks import video_decoder
from ltx_a2v.networks.build import on_meta
from ltx_a2v.networks.diffusers_modules import AutoencoderKLLTX2Video
from ltx_a2v.networks.tiling import Span, spatial_spans, temporal_spans
from ltx_a2v.versions import ModelConfig, Tiling


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and deviation of each latent channel, [C]."""

    mean: Tensor
    std: Tensor

    def normalize(self, latent: Tensor) -> Tensor:
        return (latent - self._on(self.mean, latent)) / self._on(self.std, latent)

    def denormalize(self, latent: Tensor) -> Tensor:
        return latent * self._on(self.std, latent) + self._on(self.mean, latent)

    @staticmethod
    def _on(values: Tensor, latent: Tensor) -> Tensor:
        return values.to(latent).view(1, -1, 1, 1, 1)


class VideoEncoder(nn.Module):
    """diffusers' video encoder with the statistics of its latents, named as the key map names them."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vae = AutoencoderKLLTX2Video(**config.video_vae)
        self.encoder = vae.encoder
        self.register_buffer("latents_mean", vae.latents_mean)
        self.register_buffer("latents_std", vae.latents_std)

    @property
    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(self.latents_mean, self.latents_std)

    def forward(self, pixels: Tensor) -> Tensor:
        """[1, 3, F, H, W] in [-1, 1] -> normalised mean [1, C, F', H', W']."""
        mean = self.encoder(pixels)[:, : self.latents_mean.numel()]
        return self.statistics.normalize(mean)


class VideoDecoder(nn.Module):
    """diffusers' video decoder with the statistics of its latents, named as the key map names them."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vae = AutoencoderKLLTX2Video(**config.video_vae)
        self.decoder = vae.decoder
        self.register_buffer("latents_mean", vae.latents_mean)
        self.register_buffer("latents_std", vae.latents_std)

    def forward(self, latent: Tensor) -> Tensor:
        """Normalised [1, C, F', H', W'] -> [1, 3, F, H, W] in about [-1, 1]."""
        statistics = ChannelStatistics(self.latents_mean, self.latents_std)
        layout = layout_of(self.decoder.conv_in.conv.weight)
        return video_decoder.decode(self.decoder, statistics.denormalize(latent).contiguous(memory_format=layout))


def build_video_encoder(config: ModelConfig) -> VideoEncoder:
    return on_meta(VideoEncoder, config=config)


def build_video_decoder(config: ModelConfig, layout: torch.memory_format = torch.contiguous_format) -> VideoDecoder:
    """`layout`: of the convolutions' weights, which decides that of the activations."""
    decoder = on_meta(VideoDecoder, config=config)
    for module in decoder.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.contiguous(memory_format=layout)
    return decoder


def best_layout(device: torch.device) -> torch.memory_format:
    """cuDNN's bfloat16 kernels read channels-last memory, and convert any other before and after each convolution."""
    return torch.channels_last_3d if device.type == "cuda" else torch.contiguous_format


def encoder_entries(video_vae: Entries) -> Entries:
    return {name: entry for name, entry in video_vae.items() if not name.startswith("decoder.")}


def decoder_entries(video_vae: Entries) -> Entries:
    return {name: entry for name, entry in video_vae.items() if not name.startswith("encoder.")}


def decode_pieces(decoder: VideoDecoder, latent: Tensor, tiling: Tiling) -> Iterator[Tensor]:
    """Decode [1, C, F', H', W'] and yield [1, 3, n, H, W] in float32, first to last.

    Only one piece, a tile of it and the frames shared by two pieces are held.
    """
    tail: Tensor | None = None
    pieces = temporal_spans(tiling, latent.shape[2])
    for i, piece in enumerate(pieces):
        frames = _decode_plane(decoder, latent[:, :, piece.start : piece.stop], tiling)
        if tail is not None:
            fade = torch.arange(tail.shape[2], device=tail.device) / tail.shape[2]
            _fade_in(tail, frames.narrow(2, 0, tail.shape[2]), fade, axis=2)
        shared = _frames_shared(frames.shape[2], piece, pieces[i + 1]) if i + 1 < len(pieces) else 0
        keep = frames.shape[2] - shared
        tail = frames[:, :, keep:].clone() if shared else None
        yield frames[:, :, :keep]
        del frames


def _frames_shared(frames: int, piece: Span, following: Span) -> int:
    """Frames that both pieces show; `frames` is how many the first has: one, and the same number per later latent."""
    per_latent = (frames - 1) // (piece.stop - piece.start - 1)
    return per_latent * (following.before - 1) + 1


def _decode_plane(decoder: VideoDecoder, latent: Tensor, tiling: Tiling) -> Tensor:
    """All tiles of one temporal piece, put together: [1, 3, n, H, W] in float32."""
    height, width = latent.shape[3:]
    rows, columns = (spatial_spans(tiling, length, max(height, width)) for length in (height, width))
    plane: Tensor | None = None
    for row in rows:
        above: Tensor | None = None
        for column in columns:
            tile = decoder(latent[..., row.start : row.stop, column.start : column.stop]).float()
            if len(rows) == len(columns) == 1:
                return tile
            pixels = tile.shape[3] // (row.stop - row.start)  # of a cell, each way
            if plane is None:
                plane = tile.new_empty(*tile.shape[:3], height * pixels, width * pixels)
            strip = plane.narrow(3, row.start * pixels, tile.shape[3])
            if above is None:
                above = strip.narrow(3, 0, row.before * pixels).clone()
            _put(strip, tile, column, pixels)
            del tile  # before the next is made
        assert above is not None
        _fade_in(above, strip.narrow(3, 0, above.shape[3]), _fade(above.shape[3], above.device), axis=3)
    assert plane is not None
    return plane


def _put(strip: Tensor, tile: Tensor, column: Span, pixels: int) -> None:
    """Write a tile to its place, blended with the tile before it."""
    place = strip.narrow(4, column.start * pixels, tile.shape[4])
    shared = column.before * pixels
    _fade_in(place.narrow(4, 0, shared), tile.narrow(4, 0, shared), _fade(shared, tile.device), axis=4)
    place.copy_(tile)


def _fade(shared: int, device: torch.device) -> Tensor:
    return torch.arange(1, shared + 1, device=device) / (shared + 1)


def _fade_in(edge: Tensor, following: Tensor, fade: Tensor, axis: int) -> None:
    """Blend `edge` into `following`, which covers the same pixels, in place; `fade` is the weight of `following`."""
    weights = fade.view([-1 if i == axis else 1 for i in range(edge.ndim)])
    torch.lerp(edge, following, weights, out=following)
