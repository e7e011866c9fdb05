"""Decoding at full size with random weights: the variants' seconds, memory and frames. One command, no files needed:

    python scripts/bench_decode.py [--sizes 768x512,1280x768] [--frames 97]

Prints a line per variant: seconds of the first and of the fastest later run, peak memory above the weights, and the
mean difference to diffusers' own forward in levels of 255. cuDNN's workspaces are the difference between the predicted
and the allocated peak in a generation's JSON report (`memory.decode`).
Then the whole path from latent to mp4, and H.264 alone by its number of threads. Random weights paint noise, which
costs H.264 several times what a picture does: `smooth` encodes the same frames blurred.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from ltx_a2v import kernels, miniature
from ltx_a2v.bench.synthetic import TRANSFORMER, VIDEO_VAE
from ltx_a2v.media import video
from ltx_a2v.media.frames import to_host, to_rgb
from ltx_a2v.media.video import VideoWriter
from ltx_a2v.networks.video_vae import (
    ChannelStatistics,
    VideoDecoder,
    best_layout,
    build_video_decoder,
    decode_pieces,
)
from ltx_a2v.versions import NEWEST, ModelConfig
from ltx_a2v.versions.ltx_2_3 import LTX_2_3

MIB = 2**20
CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last_3d
Decode = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="768x512,1280x768")
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--shipped", action="store_true", help="only what ships, not the variants that explain it")
    parser.add_argument("--tiny", action="store_true", help="the miniature's decoder, to try this script on a CPU")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = miniature.VIDEO_VAE if arguments.tiny else VIDEO_VAE
    metadata = {"transformer": TRANSFORMER, "vae": vae, "audio_vae": miniature.AUDIO_VAE}
    config = LTX_2_3.config_of(miniature.MODEL_VERSION, metadata)
    decoder = random_decoder(config, device)
    if device.type == "cuda":
        say(device=torch.cuda.get_device_name(), cudnn=torch.backends.cudnn.version(), fused=kernels.problem(device))
    for number, size in enumerate(arguments.sizes.split(",")):
        width, height = map(int, size.split("x"))
        latent = torch.randn(1, 128, (arguments.frames - 1) // 8 + 1, height // 32, width // 32, device=device)
        with torch.inference_mode():
            bench(decoder, latent.bfloat16(), size, every=number == 0 and not arguments.shipped)


def random_decoder(config: ModelConfig, device: torch.device) -> VideoDecoder:
    decoder = build_video_decoder(config).to(torch.bfloat16).to_empty(device=device)
    torch.manual_seed(0)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    decoder.latents_mean.zero_()
    decoder.latents_std.fill_(1)
    return decoder


def bench(decoder: VideoDecoder, latent: Tensor, size: str, every: bool) -> None:
    """`every`: the variants that only explain the result as well."""

    diffusers = own_forward(decoder)
    expected: Tensor | None = None
    for name, run, layout, fused, search in (
        ("diffusers, contiguous", diffusers, CONTIGUOUS, True, False),
        ("diffusers, channels last", diffusers, LAST, True, False),
        ("early release, contiguous", decoder, CONTIGUOUS, False, False),
        ("early release, channels last", decoder, LAST, False, False),
        ("shipped: with the kernel", decoder, LAST, True, False),
        ("shipped, cudnn.benchmark", decoder, LAST, True, True),
    ):
        if not every and name != "shipped: with the kernel":
            continue
        set_layout(decoder, layout)
        with variant(fused, search):
            said, frames = measure(run, latent)
        expected = frames if expected is None else expected
        said["levels_off"] = round(float((frames.float() - expected.float()).abs().mean()), 4)
        say(size=size, variant=name, **said)
        assert said["levels_off"] < 0.5, said
    assert expected is not None
    to_mp4(decoder, latent, size)
    encoder_alone(expected, size)


def own_forward(decoder: VideoDecoder) -> Decode:
    """diffusers'."""
    statistics = ChannelStatistics(decoder.latents_mean, decoder.latents_std)
    return lambda latent: decoder.decoder(statistics.denormalize(latent))


def set_layout(decoder: VideoDecoder, layout: torch.memory_format) -> None:
    for module in decoder.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.contiguous(memory_format=layout)


@contextmanager
def variant(fused: bool, search: bool) -> Iterator[None]:
    plain = mock.patch("ltx_a2v.kernels.pointwise.fused_on", return_value=False)
    torch.backends.cudnn.benchmark = search
    try:
        if fused:
            yield
        else:
            with plain:
                yield
    finally:
        torch.backends.cudnn.benchmark = False


def measure(decode: Decode, latent: Tensor) -> tuple[dict[str, Any], Tensor]:
    """What was measured, and the frames as levels [F, H, W, 3]."""
    if latent.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if latent.is_cuda else 0
    seconds = [timed(lambda: for_each(decode, latent), latent) for _ in range(3)]
    peak = torch.cuda.max_memory_allocated() - before if latent.is_cuda else 0
    frames = torch.cat([to_rgb(piece.cpu()) for piece in decode_pieces(decode, latent, NEWEST.tiling)])  # type: ignore[arg-type]
    return {"first_s": seconds[0], "s": min(seconds[1:]), "peak_mib": round(peak / MIB)}, frames


def for_each(decode: Any, latent: Tensor) -> None:
    for piece in decode_pieces(decode, latent, NEWEST.tiling):
        del piece


def to_mp4(decoder: VideoDecoder, latent: Tensor, size: str) -> None:
    """From the latent to the complete file: as a generation does, without the encoder's thread, and with diffusers'
    forward and RGB."""
    width, height = map(int, size.split("x"))

    def write(path: Path, decode: Any, waiting: bool, rgb: bool) -> None:
        with VideoWriter(path, width=width, height=height, frame_rate=24, audio=None) as writer:
            for piece in decode_pieces(decode, latent, NEWEST.tiling):
                writer.write(to_rgb(piece)) if rgb else writer.write(*to_host(piece))
                if waiting:
                    writer._wait(until=0)
                del piece

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        for name, decode, layout, waiting, rgb in (
            ("latent to mp4", decoder, best_layout(latent.device), False, False),
            ("latent to mp4, one after the other", decoder, best_layout(latent.device), True, False),
            ("latent to mp4, diffusers, contiguous, RGB", own_forward(decoder), CONTIGUOUS, False, True),
        ):
            set_layout(decoder, layout)
            write_once = partial(write, path, decode, waiting, rgb)
            seconds = sorted(timed(write_once, latent) for _ in range(3))
            say(size=size, variant=name, s=seconds, file_mb=round(path.stat().st_size / 1e6, 1))


def encoder_alone(frames: Tensor, size: str) -> None:
    """H.264 of yuv420p planes on the CPU, by x264's threads; 4 are used."""
    width, height = map(int, size.split("x"))
    smooth = F.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 16)
    smooth = F.interpolate(smooth, size=(height, width), mode="bilinear").byte().permute(0, 2, 3, 1)
    for kind, pixels in (("noise", frames), ("smooth", smooth)):
        planes = torch.stack([torch.from_numpy(video._from_rgb(frame).to_ndarray()) for frame in pixels])
        said = {}
        for threads in (4, 8, 16):
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(video, "X264_THREADS", threads):
                writer = VideoWriter(Path(folder) / "a.mp4", width=width, height=height, frame_rate=24, audio=None)
                started = time.perf_counter()
                with writer:
                    writer.write(planes)
                said[f"threads_{threads}_ms"] = round((time.perf_counter() - started) / len(planes) * 1e3, 2)
        say(size=size, h264_per_frame=kind, **said)


def timed(work: Callable[[], object], latent: Tensor) -> float:
    wait = torch.cuda.synchronize if latent.is_cuda else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return round(time.perf_counter() - started, 4)


def say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
