"""The visible label, in both forms in which frames reach the encoder."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest
from ltx_a2v.errors import InvalidRequest
from ltx_a2v.media.frames import to_yuv420p
from ltx_a2v.media.label import Label
from ltx_a2v.media.video import VideoWriter


@pytest.mark.parametrize(("width", "height"), [(256, 256), (1280, 768), (128, 64)])
def test_a_label_is_seen_in_the_lower_left_corner_only(width: int, height: int) -> None:
    grey = torch.full((height, width, 3), 128, dtype=torch.uint8)
    shown = Label("Made with AI", width, height).on(grey)
    assert bool((grey == 128).all())  # the caller's frame stays as it was
    changed = (shown != 128).any(2)
    assert not changed[: height // 2].any()
    assert not changed[:, int(width * 0.7) :].any()
    assert int(shown.max()) > 220  # letters
    assert int(shown.min()) < 80  # the box behind them
    assert 10 <= int(changed.any(1).sum()) <= height / 3


def test_planes_of_a_gpu_show_the_same_as_rgb(tmp_path: Path) -> None:
    """Both are encoded, and look the same within what 4:2:0 leaves."""
    torch.manual_seed(0)
    frames = torch.rand(1, 3, 2, 8, 8).repeat_interleave(16, 3).repeat_interleave(24, 4) * 2 - 1  # 128 x 192
    rgb = ((frames[0].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8)
    label = Label("Made with AI", 192, 128)
    shown = []
    for name, pixels in (("rgb", rgb.contiguous()), ("yuv", to_yuv420p(frames))):
        path = tmp_path / f"{name}.mp4"
        with VideoWriter(path, width=192, height=128, frame_rate=24, audio=None, label=label) as writer:
            writer.write(pixels)
        with av.open(path) as container:
            shown.append(torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24")).float())
    assert float((shown[0] - shown[1]).abs().mean()) < 2


def test_every_frame_of_a_video_in_windows_has_the_label(
    pipeline: A2VPipeline, small_request: GenerationRequest, tmp_path: Path
) -> None:
    """And what a window hands on has none: the frames elsewhere are those without a label."""
    long = {"num_frames": 33, "window_frames": 25, "num_inference_steps": 1}
    plain = small_request.model_copy(update=long)
    labelled = plain.model_copy(update={"output_path": tmp_path / "b.mp4", "visible_label": "AI"})
    pipeline.run(plain)
    pipeline.run(labelled)
    without, with_label = _frames(plain.output_path), _frames(labelled.output_path)
    assert without.shape == with_label.shape == (33, 64, 128, 3)
    corner = (without - with_label)[:, 40:, :40].abs().amax((1, 2, 3))
    assert float(corner.min()) > 60
    assert float((without - with_label)[:, :24].abs().mean()) < 5  # what encoding changes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: give a text"),
        ("  ", "is empty: give a text"),
        ("a\nb", "must be one line"),
        ("a\x07", "must be one line"),
        ("x" * 61, "has 61 characters; at most 60"),
    ],
)
def test_texts_that_no_label_can_show(text: str, said: str, request_fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=said):
        GenerationRequest(**request_fields, visible_label=text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("Made with AI by a company with a long name", "does not fit into 128x64"), ("由AI生成", "has characters")],
)
def test_texts_that_this_size_or_font_cannot_show(
    text: str, said: str, pipeline: A2VPipeline, small_request: GenerationRequest
) -> None:
    """Found when the request is planned."""
    with pytest.raises(InvalidRequest, match=said):
        pipeline.plan(small_request.model_copy(update={"visible_label": text}))


def _frames(path: Path) -> torch.Tensor:
    with av.open(path) as container:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")).float() for f in container.decode(video=0)])
