"""Joins videos of windows to one, without encoding their frames again, and puts the sound to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from ltx_a2v.errors import InvalidOutput
from ltx_a2v.media.sound.prepare import AudioClip
from ltx_a2v.media.video import Marks, SoundTrack, exact_rate, partial_of


def join(
    segments: Sequence[Path], output: Path, frame_rate: float, audio: AudioClip, marks: Marks | None = None
) -> None:
    """Write the frames of all `segments`, which `VideoWriter` made with equal settings, one after the other.

    The sound is encoded once, whole, cut or padded to the video. `output` appears with its `marks` when it is
    complete.
    Raises `InvalidOutput` where the file system refuses.
    """
    partial = partial_of(output)
    try:
        _write(segments, partial, exact_rate(frame_rate), audio, {} if marks is None else marks.tags)
        if marks is not None:
            marks.finish(partial)
        partial.replace(output)
    except OSError as error:
        raise InvalidOutput(f"{output} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def frames_of(segment: Path) -> int | None:
    """How many frames a complete segment has; None where the file is missing or damaged."""
    try:
        with av.open(segment) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (FFmpegError, OSError, ValueError, IndexError):
        return None


def _write(segments: Sequence[Path], output: Path, rate: Fraction, audio: AudioClip, tags: Mapping[str, str]) -> None:
    frames = 0
    with av.open(output, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata.update(tags)
        with av.open(segments[0]) as first:
            video = container.add_stream_from_template(first.streams.video[0])
        sound = SoundTrack(container, audio)
        for segment in segments:
            with av.open(segment) as source:
                stream = source.streams.video[0]
                offset = round(frames / rate / (stream.time_base or 1))
                for packet in source.demux(stream):
                    if packet.pts is None or packet.dts is None:  # the empty packet at the end
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = video
                    container.mux(packet)
                    frames += 1
                    sound.encode(until=frames / rate)
        sound.finish()
