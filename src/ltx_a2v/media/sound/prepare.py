"""Cuts the clip that a video uses out of decoded sound, and resamples it."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from torch import Tensor
from torch.nn import functional as F

from ltx_a2v.media.sound.decode import blocks, checked_remainder, open_audio, samples_at

SINC_ZEROS = 6
SINC_ROLLOFF = 0.99
RESAMPLE_CHUNK = 1 << 16


@dataclass(frozen=True)
class AudioClip:
    """The sound of a video, of the same length."""

    waveform: Tensor
    """[2, N] float32, full scale at ±1 (a lossy codec may overshoot a little)."""
    sample_rate: int
    padded_seconds: float
    """Silence appended because the file ended."""

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sample_rate


def load_audio(path: Path, start: float, seconds: float) -> AudioClip:
    """`seconds` of stereo sound from `start` on, at the file's own rate, padded with silence where the file ends.

    Mono is doubled; more than two channels are mixed down with FFmpeg's matrix. Only the requested part is decoded and
    held. Raises `InvalidAudio` when the file cannot be used or ends before `start`.
    """
    with open_audio(path) as source:
        rate = source.rate
    begin, wanted = round(start * rate), round(seconds * rate)
    waveform = np.zeros((2, wanted), np.float32)
    stereo = _Stereo(rate)
    end, ended = 0, True
    with closing(blocks(path, start)) as decoded:
        for position, frame in decoded:
            if position >= begin + wanted:
                ended = False
                break
            _paste(stereo(frame), waveform, position - begin)
            end = position + samples_at(frame, rate)
    if ended:
        checked_remainder(path, end, rate, start)
    return AudioClip(
        waveform=torch.from_numpy(waveform),
        sample_rate=rate,
        padded_seconds=max(0, wanted - (end - begin)) / rate if ended else 0.0,
    )


class _Stereo:
    """Frames of any sample format and layout to float32 [2, n]."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._resamplers: dict[tuple[str, str, int], AudioResampler] = {}

    def __call__(self, frame: AudioFrame) -> npt.NDArray[np.float32]:
        channels = frame.layout.nb_channels
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self._resamplers:
            # FFmpeg would mix mono to stereo 3 dB lower.
            layout = frame.layout if channels <= 2 else "stereo"
            self._resamplers[key] = AudioResampler("fltp", layout, self._rate)
        frame.pts = None
        parts = [part.to_ndarray() for part in self._resamplers[key].resample(frame)]
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0), np.float32)
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        # Mixing channels down can exceed full scale; mono and stereo samples are kept as they are.
        return np.clip(samples, -1, 1) if channels > 2 else np.broadcast_to(samples, (2, samples.shape[1]))


def _paste(samples: npt.NDArray[np.float32], waveform: npt.NDArray[np.float32], offset: int) -> None:
    """Write `samples` at `offset`, which may be negative; samples outside of `waveform` are dropped."""
    first, last = max(offset, 0), min(offset + samples.shape[1], waveform.shape[1])
    if first < last:
        waveform[:, first:last] = samples[:, first - offset : last - offset]


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """[C, N] -> [C, ceil(N * to_rate / from_rate)], band-limited.

    Output n is the sum of the input samples around n * from/to, weighted by a sinc whose cutoff is 0.99 of the lower
    Nyquist frequency, with a Hann window that ends at its sixth zero: the default filter of torchaudio's `resample`,
    with which the model's audio was prepared.
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
    """[phases, taps]: one kernel for each position of an output between two inputs.

    In float32 throughout: float64 would differ by up to 1e-5 from the filter that the model was trained with.
    """
    cutoff = SINC_ROLLOFF * min(step, phases)
    reach = math.ceil(SINC_ZEROS * step / cutoff) + 1
    phase = torch.arange(phases)[:, None]
    inputs = phase * step // phases + torch.arange(-reach, reach + 1)
    t = ((inputs / step - phase / phases) * cutoff).clamp(-SINC_ZEROS, SINC_ZEROS)
    return torch.sinc(t) * torch.cos(t * math.pi / (2 * SINC_ZEROS)).square() * (cutoff / step)
