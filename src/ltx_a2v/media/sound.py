"""Sound: files to waveforms, waveforms to the log-mel picture that the audio VAE reads.

Positions are counted in samples from time 0 of the file, which is where its earliest audio or video stream starts: the
0.025 s of encoder delay in an mp3 are not heard, the half second by which a film's sound starts late is. They come from
the timestamps of decoded frames; a stretch that is missing or damaged is silence, so that what follows stays in place.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.errors import InvalidAudio

PREROLL = 1.0
"""Seconds decoded before the wanted position: a codec's first frames lean on earlier ones (Opus asks for 0.08 s)."""
GAP = 0.01
"""Seconds between frames from which on something is missing; less is rounding (Matroska counts in milliseconds)."""
SEEKABLE = ("mov", "matroska", "wav")
"""Containers that store timestamps, or have none to get wrong. In others (mp3, ogg, aac) a seek goes by an estimate;
there the packets before the position are read without decoding: a second for three hours, and always right."""

SAMPLE_RATES = range(1000, 768_001)
"""Beyond them are damaged headers: a rate sizes the buffers."""

SINC_ZEROS = 6
SINC_ROLLOFF = 0.99
RESAMPLE_CHUNK = 1 << 16


@dataclass(frozen=True)
class AudioClip:
    waveform: Tensor
    """[2, N] float32, full scale at ±1 (a lossy codec may overshoot a little)."""
    sample_rate: int
    padded_seconds: float
    """Silence appended because the file ended."""
    source_seconds: float
    """What the file holds from the clip's start on."""

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate


def audio_seconds(path: Path, start: float = 0.0) -> float:
    """Seconds of sound from `start` on, as decoded rather than as the file claims.

    Raises `InvalidAudio` when the file cannot be used or ends before `start`.
    """
    with _open(path) as source:
        rate, near_end = source.rate, source.claimed_seconds - 10 * PREROLL
        exact = source.time_base <= Fraction(1, rate)
    # Exact timestamps place the last frames as well as a count of all samples does; others add up rounding.
    end = _last_position(path, max(start, near_end) if exact else start)
    return _checked_remainder(path, end, rate, start)


def load_audio(path: Path, start: float, seconds: float) -> AudioClip:
    """`seconds` of stereo sound from `start` on, at the file's own rate, padded with silence where the file ends.

    Mono is doubled; more than two channels are mixed down with FFmpeg's matrix. Only the wanted stretch is decoded and
    held. Raises `InvalidAudio` when the file cannot be used or ends before `start`.
    """
    with _open(path) as source:
        rate = source.rate
    begin, wanted = round(start * rate), round(seconds * rate)
    waveform = np.zeros((2, wanted), np.float32)
    stereo = _Stereo(rate)
    end, ended = 0, True
    with closing(_blocks(path, start)) as blocks:
        for position, frame in blocks:
            if position >= begin + wanted:
                ended = False
                break
            _paste(stereo(frame), waveform, position - begin)
            end = position + _samples_at(frame, rate)
    remaining = _checked_remainder(path, end, rate, start) if ended else audio_seconds(path, start)
    return AudioClip(
        waveform=torch.from_numpy(waveform),
        sample_rate=rate,
        padded_seconds=max(0, wanted - (end - begin)) / rate if ended else 0.0,
        source_seconds=remaining,
    )


def _last_position(path: Path, start: float) -> int:
    """Where the last sample ends; 0 where nothing decodes."""
    with _open(path) as source:
        rate = source.rate
    end = 0
    with closing(_blocks(path, start)) as blocks:
        for position, frame in blocks:
            end = position + _samples_at(frame, rate)
    return end


def _checked_remainder(path: Path, end: int, rate: int, start: float) -> float:
    if end == 0:
        raise InvalidAudio(f"{path} holds no sound that can be decoded; give another audio file.")
    if end <= round(start * rate):
        raise InvalidAudio(
            f"The audio is to start at {start:g} s, but {path} is {end / rate:.2f} s long; start earlier."
        )
    return end / rate - start


@dataclass(frozen=True)
class _Source:
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
def _open(path: Path) -> Iterator[_Source]:
    with _open_file(path) as file:
        try:
            # A playlist must not make us read other files or the network, so no protocol may be opened from inside.
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
    return file


def _audio_source(container: InputContainer, path: Path) -> _Source:
    if not container.streams.audio:
        raise InvalidAudio(f"{path} has no audio stream; give a file with sound.")
    stream = container.streams.audio[0]
    rate = stream.codec_context.sample_rate
    if rate <= 0:
        raise InvalidAudio(f"{path} does not say its sample rate; convert it to wav.")
    if rate not in SAMPLE_RATES:
        raise InvalidAudio(
            f"{path} has {rate} samples per second; {SAMPLE_RATES[0]} to {SAMPLE_RATES[-1]} can be used: convert it."
        )
    return _Source(container, stream, rate, stream.time_base or Fraction(1, rate), _origin(container))


def _origin(container: InputContainer) -> Fraction:
    """Where the earliest stream starts."""
    starts = [
        stream.start_time * stream.time_base
        for stream in (*container.streams.audio, *container.streams.video)
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=Fraction(0))


def _blocks(path: Path, start: float) -> Generator[tuple[int, AudioFrame]]:
    """Decoded frames and their positions, ascending without overlap, from `start` or somewhat earlier to the end."""
    early = start - PREROLL
    if early > 0:
        with _open(path) as source:
            frames = _frames(source, early)
            first = next(frames, None)
            # Else the seek overshot, nothing is there, or there are no timestamps: count from the beginning.
            if first is not None and first.pts is not None and source.position(first.pts) <= start * source.rate:
                yield from _placed(source, chain([first], frames))
                return
    with _open(path) as source:
        yield from _placed(source, _frames(source, 0.0))


def _placed(source: _Source, frames: Iterator[AudioFrame]) -> Iterator[tuple[int, AudioFrame]]:
    expected: int | None = None
    for frame in frames:
        position = expected or 0
        if frame.pts is not None:
            stamped = source.position(frame.pts)
            if expected is None or stamped - expected > GAP * source.rate:
                position = stamped
        expected = position + _samples_at(frame, source.rate)
        yield position, frame


def _frames(source: _Source, early: float) -> Iterator[AudioFrame]:
    for packet in _packets(source, early):
        try:
            frames = packet.decode() if packet is not None else source.stream.codec_context.decode(None)
        except (av.FFmpegError, ValueError):
            continue  # damaged: the gap becomes silence
        yield from frames


def _packets(source: _Source, early: float) -> Iterator[Packet[AudioStream] | None]:
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


def _seek(source: _Source, timestamp: int) -> None:
    try:
        source.container.seek(timestamp, stream=source.stream)
    except (av.FFmpegError, OSError, OverflowError):
        source.container.seek(0)


def _samples_at(frame: AudioFrame, rate: int) -> int:
    """Samples of the frame at the stream's rate (a chained ogg may change rate on the way)."""
    return frame.samples if frame.sample_rate == rate else round(frame.samples * rate / frame.sample_rate)


class _Stereo:
    """Frames of any sample format and layout to float32 [2, n]."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._resamplers: dict[tuple[str, str, int], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> npt.NDArray[np.float32]:
        channels = frame.layout.nb_channels
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self._resamplers:
            # Left to FFmpeg, mono would come out 3 dB lower.
            layout = frame.layout if channels <= 2 else "stereo"
            self._resamplers[key] = AudioResampler("fltp", layout, self._rate)
        frame.pts = None
        parts = [part.to_ndarray() for part in self._resamplers[key].resample(frame)]
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0), np.float32)
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        # A sum of channels can exceed full scale; what was stored in one or two is kept as it is.
        return np.clip(samples, -1, 1) if channels > 2 else np.broadcast_to(samples, (2, samples.shape[1]))


def _paste(samples: npt.NDArray[np.float32], waveform: npt.NDArray[np.float32], offset: int) -> None:
    """Write `samples` at `offset`, which may be negative; what falls outside is dropped."""
    first, last = max(offset, 0), min(offset + samples.shape[1], waveform.shape[1])
    if first < last:
        waveform[:, first:last] = samples[:, first - offset : last - offset]


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """[C, N] -> [C, ceil(N * to_rate / from_rate)], band-limited.

    Output n is the sum of the input samples around n * from/to, weighted by a sinc whose cutoff is 0.99 of the lower
    Nyquist frequency and which a Hann window ends at its sixth zero: the filter of torchaudio's `resample` with its
    defaults, which the model's audio was prepared with.
    """
    if from_rate == to_rate:
        return waveform
    divisor = math.gcd(from_rate, to_rate)
    step, phases = from_rate // divisor, to_rate // divisor
    kernels = _sinc_kernels(step, phases).to(waveform)
    reach = kernels.shape[1] // 2
    count = -(-waveform.shape[-1] * phases // step)
    windows = F.pad(waveform, (reach, reach + 1)).unfold(-1, kernels.shape[1], 1)
    pieces = []
    for first in range(0, count, RESAMPLE_CHUNK):
        n = torch.arange(first, min(first + RESAMPLE_CHUNK, count), device=waveform.device)
        pieces.append((windows[:, n * step // phases] * kernels[n % phases]).sum(-1))
    return torch.cat(pieces, dim=-1) if pieces else waveform[:, :0]


def _sinc_kernels(step: int, phases: int) -> Tensor:
    """[phases, taps]: one kernel for each place an output can have between two inputs.

    In float32 throughout: in float64 it would differ from the filter that the model knows by up to 1e-5.
    """
    cutoff = SINC_ROLLOFF * min(step, phases)
    reach = math.ceil(SINC_ZEROS * step / cutoff) + 1
    phase = torch.arange(phases)[:, None]
    inputs = phase * step // phases + torch.arange(-reach, reach + 1)
    t = ((inputs / step - phase / phases) * cutoff).clamp(-SINC_ZEROS, SINC_ZEROS)
    return torch.sinc(t) * torch.cos(t * math.pi / (2 * SINC_ZEROS)).square() * (cutoff / step)


def log_mel(
    waveform: Tensor, *, sample_rate: int = 16000, n_fft: int = 1024, hop: int = 160, n_mels: int = 64
) -> Tensor:
    """[C, N] -> [1, C, T, n_mels]: log of the magnitude in mel bands, one row per `hop` samples, T = 1 + N // hop.

    Hann windows centred on their row, edges reflected; Slaney's mel scale from 0 to half the rate, bands of equal area.
    Equal to the torchaudio transform that the model's audio VAE was trained with.
    """
    # Reflecting half a window needs more samples than that.
    waveform = F.pad(waveform, (0, max(0, n_fft // 2 + 1 - waveform.shape[-1])))
    window = torch.hann_window(n_fft, dtype=waveform.dtype, device=waveform.device)
    spectrum = torch.stft(
        waveform, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True
    ).abs()  # [C, n_fft/2+1, T]
    bands = _mel_bands(sample_rate, n_fft, n_mels).to(waveform)
    return (spectrum.mT @ bands).clamp(min=1e-5).log().unsqueeze(0)


def _mel_bands(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """[n_fft/2+1, n_mels]: triangles between neighbouring mel points, each of area 1 over Hz."""
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    points = _mel_to_hertz(torch.linspace(0, _hertz_to_mel(sample_rate / 2), n_mels + 2))
    low, centre, high = points[:-2], points[1:-1], points[2:]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)


# Slaney's scale: 3 mel per 200 Hz up to 1 kHz, then 27 mel for every factor of 6.4.
_HERTZ_PER_MEL = 200 / 3
_BREAK_HERTZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = math.log(6.4) / 27


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _HERTZ_PER_MEL
    return _BREAK_MEL + math.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _mel_to_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < _BREAK_MEL, mel * _HERTZ_PER_MEL, _BREAK_HERTZ * torch.exp((mel - _BREAK_MEL) * _LOG_STEP))
