"""The contact sheet, and reading a video back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx_a2v.errors import InvalidInput
from ltx_a2v.media.contact_sheet import CELL, COLUMNS, MOUTH, SOUND, contact_sheet
from ltx_a2v.media.read_video import read_frames
from ltx_a2v.media.sound.prepare import AudioClip
from ltx_a2v.media.video import VideoWriter


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (9, 9), (48, COLUMNS)])
def test_frames_stand_above_their_time(count: int, columns: int) -> None:
    frames = torch.zeros(count, 64, 128, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(count, dtype=torch.uint8)[:, None, None] * 5
    sheet = contact_sheet(frames, torch.zeros(2, count * 1000), 24000, 24.0)
    assert sheet.width == columns * CELL
    reds = [sheet.getpixel((column * CELL + CELL // 2, 10))[0] for column in range(columns)]
    assert reds == [int((column + 0.5) * count / columns) * 5 for column in range(columns)]


def test_sound_and_mouth_are_drawn_at_their_time() -> None:
    """A noise, and a dark mouth, in the second of two seconds."""
    frames = torch.full((48, 128, 128, 3), 220, dtype=torch.uint8)
    frames[24:, 80:110, 45:83] = 10
    waveform = torch.zeros(2, 96000)
    waveform[:, 48000:] = torch.rand(48000, generator=torch.Generator().manual_seed(1)) - 0.5
    sheet = contact_sheet(frames, waveform, 48000, 24.0)
    width, graph = sheet.width, sheet.crop((0, sheet.height - 140, sheet.width, sheet.height - 20))
    colours = {name: tuple(bytes.fromhex(value[1:])) for name, value in (("sound", SOUND), ("mouth", MOUTH))}
    tall = [sum(graph.getpixel((x, y)) == colours["sound"] for y in range(graph.height)) for x in range(width)]
    assert max(tall[: width // 2 - 2]) <= 1
    assert sum(tall[width // 2 + 2 :]) > 20 * (width // 2)
    rows = {x: next(y for y in range(graph.height) if graph.getpixel((x, y)) == colours["mouth"]) for x in (300, 1200)}
    assert rows[300] > graph.height - 10
    assert rows[1200] < 10


def test_a_video_read_back(tmp_path: Path) -> None:
    frames = torch.zeros(9, 64, 96, 3, dtype=torch.uint8)
    frames += (torch.arange(9, dtype=torch.uint8) * 25)[:, None, None, None]
    with VideoWriter(
        tmp_path / "v.mp4", width=96, height=64, frame_rate=24, audio=AudioClip(torch.zeros(2, 18000), 48000, 0.0)
    ) as writer:
        writer.write(frames)
    read = read_frames(tmp_path / "v.mp4")
    assert read.shape == frames.shape
    assert (read.float() - frames.float()).abs().max() <= 3


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InvalidInput, match="cannot be read as a video"):
        read_frames(tmp_path / "text.mp4")
