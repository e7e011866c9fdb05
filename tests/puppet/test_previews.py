"""Rough pictures of the talking miniature's video while it is made."""

from __future__ import annotations

import io
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from PIL import Image

from ltx_a2v import A2VPipeline
from ltx_a2v.diffusion.previews import SIDE
from ltx_a2v.events import Done, Event, Previewed, StepFinished
from ltx_a2v.windows import GUARD
from tests.puppet.conftest import short_request


def test_previews_come_nearer_to_the_video(puppet: A2VPipeline, tmp_path: Path) -> None:
    events = list(puppet.generate(short_request(output_path=tmp_path / "a.mp4", num_inference_steps=8, previews=True)))
    shown = [event for event in events if isinstance(event, Previewed)]
    assert [(each.phase, each.step) for each in shown] == [("stage_1", 1), ("stage_1", 6), ("stage_2", 1)]
    pictures = [_pixels(each.jpeg) for each in shown]
    assert [tuple(picture.shape[1:]) for picture in pictures] == [(4 * SIDE, 4 * SIDE)] * 2 + [(8 * SIDE, 8 * SIDE)]
    middle = _middle_frame(tmp_path / "a.mp4")
    first, _, last = (_psnr(picture, middle) for picture in pictures)
    assert last > max(first, 18)
    other = torch.roll(middle, 64, 2)  # a face elsewhere
    assert _psnr(pictures[-1], other) < last - 5


def test_previews_change_nothing(puppet: A2VPipeline, tmp_path: Path) -> None:
    """And without a picture there are none."""
    for name in ("with", "without"):
        request = short_request(output_path=tmp_path / f"{name}.mp4", num_inference_steps=2, previews=name == "with")
        events = list[Event](puppet.generate(request))
        assert any(isinstance(event, Previewed) for event in events) == (name == "with")
    assert (tmp_path / "with.mp4").read_bytes() == (tmp_path / "without.mp4").read_bytes()
    request = short_request(output_path=tmp_path / "blind.mp4", num_inference_steps=2, previews=True, image=None)
    events = list[Event](puppet.generate(request))
    assert isinstance(events[-1], Done)
    assert any(isinstance(event, StepFinished) for event in events)
    assert not any(isinstance(event, Previewed) for event in events)


def _pixels(jpeg: bytes) -> torch.Tensor:
    """[3, H, W] in 0..1."""
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3).permute(2, 0, 1)
        / 255
    )


def _middle_frame(video: Path) -> torch.Tensor:
    """[3, H, W] in 0..1: of the latent frame that previews show."""
    with av.open(video) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    latents = (len(frames) + GUARD - 1) // 8 + 1
    return torch.from_numpy(frames[8 * (latents // 2) - 4]).permute(2, 0, 1) / 255


def _psnr(preview: torch.Tensor, frame: torch.Tensor) -> float:
    small = F.interpolate(frame[None], preview.shape[1:], mode="area")[0]
    return float(-10 * torch.log10((preview - small).square().mean()))
