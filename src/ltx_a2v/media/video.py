"""Encodes frames and sound to an mp4 that browsers play, on a thread of its own while further frames are decoded.

The file is written under a temporary name in the same folder and renamed when it is complete: however the work ends,
`path` is either the complete new file or unchanged.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import torch
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.errors import InvalidOutput
from ltx_a2v.media.label import Label
from ltx_a2v.media.output_file import check_output_file
from ltx_a2v.media.sound.prepare import AudioClip, resample

X264 = {"crf": "17", "preset": "veryfast"}
"""The reference's preset, two steps finer than its crf 19; slower presets took twice the time for no visible gain."""
X264_THREADS = 8
"""Fixed, because x264's result depends on it. With 16 cores a frame of 768x512 took 15.5 ms with 4, 10.0 with 8
and 9.2 with 16 (noise; half of that for smooth pictures)."""
REPEATABLE = {"x264-params": "asm=avx2"}
"""Where x264 would use AVX-512, with which its bytes differ from run to run at widths such as 192 and 320 (PyAV 18)."""
QUEUED = 2
"""Calls of `write` whose frames may wait for the encoder. A third waits, which bounds host memory."""
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_FALLBACK_RATE = 48000
AAC_BITS_PER_SECOND = 192_000
AAC_BITS_PER_SAMPLE = 6
"""For low rates; AAC ends at 12 for stereo."""


class Marks(Protocol):
    """What a video says of itself: see `marks.marks.Marks`."""

    @property
    def tags(self) -> Mapping[str, str]: ...
    def finish(self, file: Path) -> None: ...


def check_output(path: Path) -> None:
    """Raises `InvalidOutput` when no mp4 can be written to `path`."""
    check_output_file(path, ".mp4", "video.mp4")


def partial_of(path: Path) -> Path:
    """What a file is called until it is complete."""
    return path.absolute().with_name(f"{path.name}.{os.getpid()}.part")


class VideoWriter:
    """An mp4 being written: H.264 yuv420p in BT.709, AAC, index in front, both streams from 0.

    Used as a context manager: leaving it normally completes the file, an exception discards it. `audio` is cut, or
    padded with silence, to the length of the video. The same frames and audio give the same bytes without `marks`,
    which are completed before the file gets its name. `label` draws on each frame.
    Raises `InvalidOutput` where the file system refuses.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frame_rate: float,
        audio: AudioClip | None,
        label: Label | None = None,
        marks: Marks | None = None,
    ) -> None:
        self._label, self._marks = label, marks
        self._path = path.absolute()
        self._partial = partial_of(path)
        self._shapes = (height, width, 3), (height * 3 // 2, width)
        self._thread = ThreadPoolExecutor(1, "video-encoder")
        self._pending: deque[Future[None]] = deque()
        self._stop = threading.Event()
        self._open = True
        self._encoder: _Encoder | None = None
        with self._or_discard():
            tags = {} if marks is None else marks.tags
            self._encoder = _Encoder(self._partial, width, height, exact_rate(frame_rate), audio, tags)

    def write(self, frames: Tensor, copied: torch.cuda.Event | None = None) -> None:
        """Append frames: uint8 on the CPU, RGB [F, H, W, 3] or the planes of yuv420p [F, 3 H / 2, W].

        Returns before they are encoded, so that encoding overlaps with the caller's work: the tensor must not change
        until the file is complete. `copied`: an event after which the tensor holds the frames. An error of the encoder
        is raised by a later call.
        """
        if frames.dtype != torch.uint8 or frames.shape[1:] not in self._shapes:
            shapes = " or ".join(f"[F, {', '.join(map(str, shape))}]" for shape in self._shapes)
            raise ValueError(f"frames must be uint8 {shapes}, not {frames.dtype} {list(frames.shape)}")
        with self._or_discard():
            self._wait(until=QUEUED - 1)
            self._pending.append(self._thread.submit(self._encode, frames, copied))

    def close(self) -> None:
        """Complete the file and put it in its place. Does nothing the second time."""
        if not self._open:
            return
        with self._or_discard():
            self._wait(until=0)
            assert self._encoder is not None
            self._encoder.finish()
            if self._marks is not None:
                self._marks.finish(self._partial)
            self._partial.replace(self._path)
        self._open = False
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def _encode(self, frames: Tensor, copied: torch.cuda.Event | None) -> None:
        """On the encoder's thread. After an error, frames that wait are not encoded."""
        assert self._encoder is not None
        try:
            if copied is not None and not self._stop.is_set():
                copied.synchronize()
            for frame in frames:
                if self._stop.is_set():
                    return
                self._encoder.encode(frame if self._label is None else self._label.on(frame))
        except BaseException:
            self._stop.set()
            raise

    def _wait(self, until: int) -> None:
        """Wait until no more than `until` calls' frames are to be encoded, and raise the encoder's error."""
        while self._pending and (len(self._pending) > until or self._pending[0].done()):
            self._pending.popleft().result()

    @contextlib.contextmanager
    def _or_discard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            raise InvalidOutput(f"{self._path} cannot be written: {error.strerror}.") from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        self._open = False
        self._stop.set()
        try:
            self._thread.shutdown()
            if self._encoder is not None:
                self._encoder.abandon()
        finally:
            self._partial.unlink(missing_ok=True)


class _Encoder:
    """The container and its streams; each frame is written with its part of the sound, so that both are interleaved."""

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frame_rate: Fraction,
        audio: AudioClip | None,
        tags: Mapping[str, str],
    ) -> None:
        self._frame_rate = frame_rate
        self._frames = 0
        self._container = av.open(path, "w", format="mp4", options={"movflags": "+faststart"})
        self._container.metadata.update(tags)
        self._video = self._container.add_stream("libx264", rate=frame_rate, options=_x264_options())
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.thread_count = X264_THREADS
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._sound = None if audio is None else SoundTrack(self._container, audio)

    def encode(self, pixels: Tensor) -> None:
        """One frame: uint8 RGB [H, W, 3], or planes of yuv420p [3 H / 2, W]."""
        frame = _from_rgb(pixels) if pixels.ndim == 3 else _from_planes(pixels)
        frame.pts, frame.time_base = self._frames, 1 / self._frame_rate
        self._container.mux(self._video.encode(frame))
        self._frames += 1
        if self._sound is not None:
            self._sound.encode(until=self._frames / self._frame_rate)

    def finish(self) -> None:
        if self._frames == 0:
            raise ValueError("a video needs at least one frame")
        self._container.mux(self._video.encode())
        if self._sound is not None:
            self._sound.finish()
        self._container.close()

    def abandon(self) -> None:
        with contextlib.suppress(Exception):
            self._container.close()


class SoundTrack:
    """The AAC track of a container, written in parts, so that it is interleaved with the video."""

    def __init__(self, container: OutputContainer, audio: AudioClip) -> None:
        self._container = container
        self._rate = audio.sample_rate if audio.sample_rate in AAC_RATES else AAC_FALLBACK_RATE
        self._waveform = resample(audio.waveform, audio.sample_rate, self._rate).cpu()
        self._samples = 0
        self._stream: AudioStream = container.add_stream("aac", rate=self._rate, layout="stereo")
        self._stream.codec_context.bit_rate = min(AAC_BITS_PER_SECOND, AAC_BITS_PER_SAMPLE * self._rate)

    def encode(self, until: Fraction) -> None:
        """The samples up to that second, silence where the clip has none left."""
        end = round(until * self._rate)
        sound = self._waveform[:, self._samples : end]
        sound = F.pad(sound, (0, end - self._samples - sound.shape[-1]))
        frame = av.AudioFrame.from_ndarray(sound.contiguous().numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._samples = end

    def finish(self) -> None:
        self._container.mux(self._stream.encode())


def _x264_options() -> dict[str, str]:
    return X264 | (REPEATABLE if torch.backends.cpu.get_cpu_capability() == "AVX512" else {})


def _from_rgb(pixels: Tensor) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), format="rgb24").reformat(
        format="yuv420p",
        interpolation="AREA",  # chroma is the mean of its four pixels
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
    )


def _from_planes(pixels: Tensor) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), format="yuv420p")
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame


def exact_rate(frame_rate: float) -> Fraction:
    """The exact rate: 23.976 and 29.97 are 24000/1001 and 30000/1001."""
    ntsc = Fraction(round(frame_rate) * 1000, 1001)
    return ntsc if abs(frame_rate - ntsc) < 1e-4 else Fraction(frame_rate).limit_denominator(1001)
