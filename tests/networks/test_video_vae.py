"""The decoder computes diffusers' bits in less memory; tiles have the reference's layout and cover everything once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ltx_a2v import A2VPipeline, miniature
from ltx_a2v.networks.tiling import spans, temporal_spans
from ltx_a2v.networks.video_vae import (
    ChannelStatistics,
    VideoDecoder,
    best_layout,
    build_video_decoder,
    decode_pieces,
)
from ltx_a2v.residency.ledger import Ledger
from ltx_a2v.residency.network import Network, Placement
from ltx_a2v.versions import NEWEST, Tiling
from ltx_a2v.versions.ltx_2_3 import LTX_2_3


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 10))
def test_spans_cover_everything_with_the_overlap(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    pieces = spans(length, size, overlap)
    assert pieces[0].start == 0
    assert pieces[-1].stop == length
    assert all(0 < piece.stop - piece.start <= size for piece in pieces)
    for before, after in pairwise(pieces):
        assert before.stop - after.start == after.before == overlap


def test_temporal_layout_of_97_frames() -> None:
    """Recorded from the reference: latents [0, 10) and [6, 13)."""
    assert [(p.start, p.stop) for p in temporal_spans(NEWEST.tiling, 13)] == [(0, 10), (6, 13)]


class Linear(nn.Module):
    """A decoder whose pixels say where they come from, so that tiles agree wherever they overlap."""

    def forward(self, latent: Tensor) -> Tensor:
        first = latent[:, :3, :1]
        rest = latent[:, :3, 1:].repeat_interleave(8, dim=2)
        return torch.cat([first, rest], dim=2).repeat_interleave(32, dim=3).repeat_interleave(32, dim=4)


@pytest.mark.parametrize("shape", [(13, 5, 7), (1, 2, 2), (33, 3, 9), (10, 30, 8)])
def test_tiles_put_together_equal_the_whole(shape: tuple[int, int, int]) -> None:
    latent = torch.rand(1, 128, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tiling = Tiling(frames=5, frames_overlap=1, cells=4, cells_overlap=1)
    tiled = torch.cat(list(decode_pieces(Linear(), latent, tiling)), dim=2)
    torch.testing.assert_close(tiled, Linear()(latent), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_small_videos_are_decoded_at_once(pipeline: A2VPipeline) -> None:
    latent = torch.randn(1, 128, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    with pipeline.model.within({}).use("video_decoder") as decoder:
        pieces = list(decode_pieces(decoder, latent, NEWEST.tiling))
        assert len(pieces) == 1
        assert torch.equal(pieces[0], decoder(latent))
    assert pieces[0].shape == (1, 3, 17, 64, 128)


# --- the decoder's forward -------------------------------------------------------------------------------------------


def diffusers_own(decoder: VideoDecoder, latent: Tensor) -> Tensor:
    statistics = ChannelStatistics(decoder.latents_mean, decoder.latents_std)
    return decoder.decoder(statistics.denormalize(latent))


def small_latent(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 128, 4, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def tiny_decoder() -> Callable[..., VideoDecoder]:
    """One whose changes of resolution and causality can be chosen."""

    def make(**arguments: object) -> VideoDecoder:
        metadata = {"transformer": miniature.TRANSFORMER, "vae": miniature.VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE}
        config = LTX_2_3.config_of(miniature.MODEL_VERSION, metadata)
        torch.manual_seed(0)
        decoder = VideoDecoder(replace(config, video_vae=config.video_vae | arguments)).requires_grad_(False).eval()
        decoder.latents_mean.normal_()
        return decoder

    return make


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_forward_is_diffusers_bit_for_bit(
    tiny_decoder: Callable[..., VideoDecoder], dtype: torch.dtype, causal: bool, residual: bool
) -> None:
    decoder = tiny_decoder(decoder_causal=causal, upsample_residual=(residual,) * 4).to(dtype)
    latent = small_latent(dtype)
    frames = decoder(latent)
    assert frames.shape == (1, 3, 25, 64, 96)
    assert torch.equal(frames, diffusers_own(decoder, latent))


@torch.inference_mode()
@pytest.mark.parametrize("residual", [False, True])
def test_channels_last_stays_so_between_layers_and_gives_the_same_frames(
    tiny_decoder: Callable[..., VideoDecoder], residual: bool
) -> None:
    """With convolutions that keep the layout, as cuDNN's do."""
    layout = torch.channels_last_3d
    decoder = tiny_decoder(upsample_residual=(residual,) * 4)
    expected = decoder(small_latent())
    seen: list[bool] = []
    for module in decoder.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.contiguous(memory_format=layout)
            module.register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=layout))
            )
            module.register_forward_hook(lambda *given: given[-1].contiguous(memory_format=layout))
    torch.testing.assert_close(decoder(small_latent()), expected, rtol=1e-4, atol=1e-5)
    assert len(seen) > 10
    assert all(seen)


@torch.inference_mode()
def test_weights_are_loaded_in_the_layout_of_the_device(pipeline: A2VPipeline) -> None:
    loader, config = pipeline.model.loaders["video_decoder"], pipeline.model.config
    assert best_layout(torch.device("cpu")) == torch.contiguous_format
    layout = best_layout(torch.device("cuda"))
    assert layout == torch.channels_last_3d
    make = lambda: build_video_decoder(config, layout)  # noqa: E731
    last = Network(replace(loader, blueprint=replace(loader.blueprint, make=make)), torch.device("cpu"))
    plain = pipeline.model.networks["video_decoder"]
    for placement in (Placement("file"), Placement("host")):
        with last.use(placement) as there, plain.use(placement) as here:
            weights, expected = there.module.state_dict(), here.module.state_dict()
            assert all(torch.equal(weights[name], expected[name]) for name in expected)
            kernels = [w for w in weights.values() if w.ndim == 5]
            assert all(w.is_contiguous(memory_format=layout) for w in kernels)
            frames, contiguous = there.module(small_latent()), here.module(small_latent())
        torch.testing.assert_close(frames, contiguous, rtol=1e-4, atol=1e-5)
        last.release()
        plain.release()


@torch.inference_mode()
@pytest.mark.parametrize(("fused", "tensors"), [(False, 4.1), (True, 3.1)])
def test_activations_are_released_early(
    pipeline: A2VPipeline, fused: bool, tensors: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the largest resolution a block's input, what its convolution reads and what it gives are alive, no more."""
    monkeypatch.setattr("ltx_a2v.kernels.pointwise.fused_on", lambda video: fused)
    wide = {"decoder_block_out_channels": (256, 512, 512, 1024)}  # as the real one
    config = pipeline.model.config
    decoder = build_video_decoder(replace(config, video_vae=config.video_vae | wide)).to(torch.bfloat16)
    latent = torch.empty(1, 128, 10, 8, 8, dtype=torch.bfloat16, device="meta")
    with Ledger() as ledger:
        decoder(latent)
    channels, cells = decoder.decoder.conv_out.conv.in_channels, (8 * 32 // 4) ** 2
    assert channels == 128
    assert ledger.peak < tensors * channels * (73 + 2) * cells * torch.bfloat16.itemsize
