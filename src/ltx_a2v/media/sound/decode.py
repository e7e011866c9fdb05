"""Decodes sound files to frames and their positions.

Positions are counted in samples from time 0 of the file, the start of its earliest audio or video stream. So the 0.025
s of encoder delay in an mp3 are removed, while a film's sound that starts half a second late stays late. Positions come
from the timestamps of decoded frames. Missing or damaged parts become silence, so that later sound keeps its position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from ltx_a2v.errors import InvalidAudio, TooLarge
from ltx_a2v.media.sound.riff import cut_to_riff

PREROLL = 1.0
"""Seconds decoded before the wanted position: a codec's frames depend on earlier ones (Opus requires 0.08 s)."""
GAP = 0.01
"""A longer gap between frames, in seconds, is missing sound; a shorter one is rounding (Matroska: milliseconds)."""
SEEKABLE = ("mov", "matroska", "wav")
"""Containers in which seeking is exact. In others (mp3, ogg, aac) a seek estimates the position, so the packets before
it are read without decoding instead: exact, and a second for three hours of sound."""

SAMPLE_RATES = range(1000, 768_001)
"""Other rates come from damaged headers, and would determine the size of buffers."""


def audio_seconds(path: Path, start: float = 0.0, at_most: float = math.inf) -> float:
    """Seconds of sound from `start` on, at most `at_most`; by decoding, since headers can be wrong.

    Nothing is decoded beyond `at_most`. Raises `InvalidAudio` when the file cannot be used or ends before `start`.
    """
    with open_audio(path) as source:
        rate, near_end = source.rate, source.claimed_seconds - 10 * PREROLL
        exact = source.time_base <= Fraction(1, rate)
    # With exact timestamps it suffices to decode the last frames; rounded ones require counting all samples.
    begin = max(start, near_end) if exact and near_end < start + at_most else start
    end = _last_position(path, begin, round((start + at_most) * rate) if math.isfinite(at_most) else None)
    return min(checked_remainder(path, end, rate, start), at_most)


def check_audio_length(path: Path, max_seconds: float, poll: Callable[[], None] = lambda: None) -> None:
    """Check the length by decoding, up to the limit: the length in the header may be missing or wrong.

    `poll` is called once per second of sound; an error that it raises stops the decoding. Raises `TooLarge`
    (`audio_too_long`) when there are more than `max_seconds`, and `InvalidAudio` when the file cannot be used.
    """
    with open_audio(path) as source:
        rate = source.rate
    limit = math.floor(max_seconds * rate)
    end, polled = 0, 0
    with closing(blocks(path, 0.0)) as decoded:
        for position, frame in decoded:
            end = position + samples_at(frame, rate)
            if end > limit:
                raise TooLarge(f"The audio is longer than the {max_seconds:g} s that are allowed.", "audio_too_long")
            if end >= polled + rate:
                poll()
                polled = end
    checked_remainder(path, end, rate, 0.0)


def _last_position(path: Path, start: float, limit: int | None) -> int:
    """Position of the end of the last sample, or of the first frame that reaches `limit`; 0 where nothing decodes."""
    with open_audio(path) as source:
        rate = source.rate
    end = 0
    with closing(blocks(path, start)) as decoded:
        for position, frame in decoded:
            end = position + samples_at(frame, rate)
            if limit is not None and end >= limit:
                break
    return end


def checked_remainder(path: Path, end: int, rate: int, start: float) -> float:
    """Seconds between `start` and the sample `end`. Raises `InvalidAudio` where nothing is left."""
    if end == 0:
        raise InvalidAudio(f"{path} holds no sound that can be decoded; give another audio file.")
    if end <= round(start * rate):
        raise InvalidAudio(
            f"The audio is to start at {start:g} s, but {path} is {end / rate:.2f} s long; start earlier."
        )
    return end / rate - start


@dataclass(frozen=True)
class Source:
    """An open file and the audio stream that is used: its first."""

    container: InputContainer
    stream: AudioStream
    rate: int
    time_base: Fraction
    origin: Fraction
    """Time 0 in the container's own time."""

    @property
    def claimed_seconds(self) -> float:
        return (self.container.duration or 0) / av.time_base

    def position(self, timestamp: int) -> int:
        return round((timestamp * self.time_base - self.origin) * self.rate)

    def timestamp(self, seconds: float) -> int:
        return math.floor((Fraction(seconds) + self.origin) / self.time_base)


@contextmanager
def open_audio(path: Path) -> Iterator[Source]:
    """Raises `InvalidAudio`."""
    with _open_file(path) as file:
        try:
            # No protocols: a playlist must not open other files or the network.
            container = av.open(file, mode="r", options={"protocol_whitelist": "none"})
        except (av.FFmpegError, ValueError, OSError) as error:
            raise InvalidAudio(f"{path} is not an audio or video file; give wav, mp3, m4a, ogg, flac, mp4.") from error
        with container:
            yield _audio_source(container, path)


def _open_file(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise InvalidAudio(f"{path} is a folder; give an audio file.")
        file = path.open("rb")
    except FileNotFoundError:
        raise InvalidAudio(f"There is no audio file {path}; check the path.") from None
    except OSError as error:
        raise InvalidAudio(f"The audio file {path} cannot be read: {error.strerror}.") from error
    if not file.read(1):
        file.close()
        raise InvalidAudio(f"The audio file {path} is empty; give another.")
    file.seek(0)
    return cut_to_riff(file)


def _audio_source(container: InputContainer, path: Path) -> Source:
    if not container.streams.audio:
        raise InvalidAudio(f"{path} has no audio stream; give a file with sound.")
    stream = container.streams.audio[0]
    if getattr(stream, "codec_context", None) is None:
        raise InvalidAudio(f"{path} has sound of a kind that FFmpeg does not know; convert it to wav.")
    rate = stream.codec_context.sample_rate
    if rate <= 0:
        raise InvalidAudio(f"{path} does not say its sample rate; convert it to wav.")
    if rate not in SAMPLE_RATES:
        raise InvalidAudio(
            f"{path} has {rate} samples per second; {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} can be used: convert it."
        )
    return Source(container, stream, rate, stream.time_base or Fraction(1, rate), _origin(container))


def _origin(container: InputContainer) -> Fraction:
    """Where the earliest stream starts."""
    starts = [
        stream.start_time * stream.time_base
        for stream in (*container.streams.audio, *container.streams.video)
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=Fraction(0))


def blocks(path: Path, start: float) -> Generator[tuple[int, AudioFrame]]:
    """Decoded frames and their positions, ascending without overlap, from shortly before `start` to the end."""
    early = start - PREROLL
    if early > 0:
        with open_audio(path) as source:
            frames = _frames(source, early)
            first = next(frames, None)
            # Otherwise the seek went too far, found nothing, or there are no timestamps: decode from the beginning.
            if first is not None and first.pts is not None and source.position(first.pts) <= start * source.rate:
                yield from _placed(source, chain([first], frames))
                return
    with open_audio(path) as source:
        yield from _placed(source, _frames(source, 0.0))


def _placed(source: Source, frames: Iterator[AudioFrame]) -> Iterator[tuple[int, AudioFrame]]:
    expected: int | None = None
    for frame in frames:
        position = expected or 0
        if frame.pts is not None:
            stamped = source.position(frame.pts)
            if expected is None or stamped - expected > GAP * source.rate:
                position = stamped
        expected = position + samples_at(frame, source.rate)
        yield position, frame


def _frames(source: Source, early: float) -> Iterator[AudioFrame]:
    for packet in _packets(source, early):
        try:
            frames = packet.decode() if packet is not None else source.stream.codec_context.decode(None)
        except (av.FFmpegError, ValueError):
            continue  # damaged: the gap becomes silence
        yield from frames


def _packets(source: Source, early: float) -> Iterator[Packet[AudioStream] | None]:
    """The stream's packets that end after `early`, then None (which flushes the decoder)."""
    wanted = source.timestamp(early)
    if early > 0 and source.container.format.name.startswith(SEEKABLE):
        _seek(source, wanted)
    packets = source.container.demux(source.stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError, OSError):
            break
        over = early > 0 and packet.pts is not None and packet.duration and packet.pts + packet.duration < wanted
        if packet.size and not over:
            yield packet
    yield None


def _seek(source: Source, timestamp: int) -> None:
    try:
        source.container.seek(timestamp, stream=source.stream)
    except (av.FFmpegError, OSError, OverflowError):
        source.container.seek(0)


def samples_at(frame: AudioFrame, rate: int) -> int:
    """Samples of the frame at the stream's rate (a chained ogg may change rate on the way)."""
    return frame.samples if frame.sample_rate == rate else round(frame.samples * rate / frame.sample_rate)
