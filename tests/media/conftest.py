"""Small media files, made as they are needed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MakeAudio = Callable[..., Path]


@pytest.fixture
def make_audio(tmp_path: Path) -> MakeAudio:
    """`make_audio(name, samples, rate, codec)`: float samples [channels, n] in a container chosen by the name."""

    def make(
        name: str,
        samples: np.ndarray,
        rate: int,
        codec: str,
        *,
        layout: str | None = None,
        video_seconds: float = 0.0,
        audio_at: float = 0.0,
    ) -> Path:
        path = tmp_path / name
        with av.open(path, "w") as container:
            video = _add_video(container) if video_seconds else None
            stream = container.add_stream(codec, rate=rate, layout=layout or ("mono", "stereo")[len(samples) - 1])
            resampler = av.AudioResampler(stream.codec_context.format.name, stream.layout, rate)
            if video is not None:
                _encode_video(container, video, video_seconds)
            for first in range(0, samples.shape[1], 1000):
                chunk = np.ascontiguousarray(samples[:, first : first + 1000], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=stream.layout.name)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = first + round(audio_at * rate)
                for converted in resampler.resample(frame):
                    container.mux(stream.encode(converted))
            container.mux(stream.encode())
        return path

    return make


def _add_video(container: av.container.OutputContainer) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    return stream


def _encode_video(container: av.container.OutputContainer, stream: av.VideoStream, seconds: float) -> None:
    for index in range(round(seconds * 25)):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 256, np.uint8), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
