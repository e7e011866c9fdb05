"""A video file to frames, for measuring what was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from ltx_a2v.errors import InvalidVideo

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first stream of pictures. Raises `InvalidVideo`."""
    try:
        if path.is_dir():
            raise InvalidVideo(f"{path} is a folder; give a video.")
        with path.open("rb") as file:
            try:
                # No protocols: a playlist must not open other files or the network.
                container = av.open(file, mode="r", options={"protocol_whitelist": "none"})
            except (av.FFmpegError, ValueError) as error:
                raise InvalidVideo(f"{path} cannot be read as a video; give an mp4.") from error
            with container:
                if not container.streams.video:
                    raise InvalidVideo(f"{path} holds no pictures, only sound; give a video.")
                yield container, container.streams.video[0]
    except FileNotFoundError:
        raise InvalidVideo(f"There is no video {path}; check the path.") from None
    except OSError as error:
        raise InvalidVideo(f"The video {path} cannot be read: {error.strerror}.") from error


def each_frame(path: Path, longest_side: int) -> Iterator[npt.NDArray[np.uint8]]:
    """uint8 [H, W, 3], upright, one after the other, not larger than `longest_side`. Raises `InvalidVideo`."""
    with open_video(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                scale = min(1.0, longest_side / max(frame.width, frame.height))
                width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
                small = frame.reformat(width=width, height=height, format="rgb24")
                upright: npt.NDArray[np.uint8] = np.rot90(small.to_ndarray(), round(frame.rotation / 90) % 4)
                yield upright.copy()
        except av.FFmpegError as error:
            raise InvalidVideo(f"{path} is damaged: it cannot be decoded to its end; give another video.") from error


@dataclass(frozen=True)
class VideoProperties:
    """Of the frames of a video file."""

    width: int
    height: int
    frame_rate: float
    frames: int


def read_properties(path: Path) -> VideoProperties:
    """Raises `InvalidVideo` where the file is no video, holds no frame, or does not say its rate."""
    with open_video(path) as (container, stream):
        frames = sum(packet.size > 0 for packet in container.demux(stream))
        rate = stream.average_rate
        if not frames or not rate:
            raise InvalidVideo(f"{path} holds no moving pictures; give a video.")
        return VideoProperties(stream.width, stream.height, float(rate), frames)


def check_first_frame(path: Path) -> None:
    """Decode it in this thread: a confined process starts no others. Raises `InvalidVideo`."""
    with open_video(path) as (container, stream):
        stream.thread_count = 1
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError as error:
            raise InvalidVideo(f"{path} is damaged: its first frame cannot be decoded; give another video.") from error
        if first is None:
            raise InvalidVideo(f"{path} holds no frame; give another video.")
        _check_upright(path, first)


def _check_upright(path: Path, frame: av.VideoFrame) -> None:
    if frame.rotation:
        raise InvalidVideo(f"{path} is turned by its header; save it upright first.")


def has_sound(path: Path) -> bool:
    """Raises `InvalidVideo`."""
    with open_video(path) as (container, _):
        return bool(container.streams.audio)


def each_planes(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Planes of yuv420p in BT.709, limited range, uint8 [3 H / 2, W], as `VideoWriter` takes them; of a video that it
    wrote they are as they were. Raises `InvalidVideo`."""
    with open_video(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                _check_upright(path, frame)
                if frame.format.name != "yuv420p" or frame.colorspace != Colorspace.ITU709:
                    frame = frame.reformat(
                        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                    )
                yield np.asarray(frame.to_ndarray(), np.uint8)
        except av.FFmpegError as error:
            raise InvalidVideo(f"{path} is damaged: it cannot be decoded to its end; give another video.") from error


def read_part(path: Path, start: int, frames: int) -> Tensor:
    """[1, 3, frames, H, W] in [-1, 1] from frame `start` on. Raises `InvalidVideo`."""
    import torch

    from ltx_a2v.media.frames import from_yuv420p

    part = list(islice(each_planes(path), start, start + frames))
    if len(part) < frames:
        raise InvalidVideo(f"{path} is damaged: it ends before its frame {start + frames}; give another video.")
    return from_yuv420p(torch.from_numpy(np.stack(part)))


def read_frames(path: Path) -> Tensor:
    """Every frame: uint8 [F, H, W, 3]. Raises `InvalidVideo` where the file holds none."""
    import torch

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise InvalidVideo(f"{path} cannot be read as a video; give an mp4.") from error
    if not frames:
        raise InvalidVideo(f"{path} holds no frame; give another video.")
    return torch.from_numpy(np.stack(frames))
