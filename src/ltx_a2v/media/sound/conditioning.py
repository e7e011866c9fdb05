"""Prepares the sound that conditions the video; the sound that is heard stays as it is.

Speech from a synthesiser is cleaner than any recording, and recordings are quiet, rumble, or begin in the middle of a
word. Users of audio-to-video models report still faces and wrong mouths for such sounds, and cure them by loudness,
background noise and a high-pass. What each step does to the talking miniature is measured in docs/prompting.md.

Every step works on the whole clip, and nothing in it is drawn by chance: the same sound gives the same bits, and a part
of the result does not depend on where it is cut out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

USUAL_LUFS = -18.0
"""What AES TD1008 recommends for speech that is streamed."""
MOST_GAIN_DB = 30.0
"""Up or down. A room's noise of -70 LUFS, taken for speech, stays at -40."""
HIGH_PASS_HZ = 80.0
"""Below the lowest voices' pitch, about 85 Hz: what is left out is rumble, hum of 50 Hz and an offset."""
FLOOR_DB = -60.0
"""Of the noise, below full scale: about a quiet room's under speech of the usual loudness."""
CLEAN_DB = -66.0
"""A sound whose quietest tenth is below this is cleaner than a recording."""
DIGITAL_SILENCE = 1e-4
"""Amplitude: three steps of 16 bits."""
SHORTEST_SILENCE = 0.02
"""Seconds; shorter runs of zeros are part of a wave."""
FADE = 0.002
"""Half its length in seconds. Five times as long costs the miniature 0.015 of correlation at cuts, this 0.003."""
PIECE = 1 << 20
"""Samples that are filtered at a time."""
REACH = 0.25
"""Seconds of context on either side of a piece, after which the filters' responses have decayed."""

Response = Callable[[Tensor], Tensor]
"""Frequencies in Hz -> gains."""


def prepare_speech(waveform: Tensor, sample_rate: int) -> Tensor:
    """[C, N] -> [C, N] float32: the copy that the model hears. Silence stays silence."""
    if not (waveform.abs() > DIGITAL_SILENCE).any():
        return waveform
    softened = soften_cuts(waveform, sample_rate)
    levelled = level(high_pass(softened, sample_rate), sample_rate)
    return add_noise_floor(levelled, sample_rate)


def soften_cuts(waveform: Tensor, sample_rate: int) -> Tensor:
    """Fade where the sound starts from digital silence or stops in it, and at both ends of the clip.

    A cut in the middle of a wave is a click in all bands of one row of the spectrogram, as a plosive is.
    """
    fade = max(1, round(FADE * sample_rate))
    size = 2 * fade + 1
    loud = waveform.abs().amax(0) > DIGITAL_SILENCE
    heard = ~_silence(loud, round(SHORTEST_SILENCE * sample_rate))
    inside = _count(F.pad(heard, (2 * fade, 2 * fade)), size) == size  # silence is before and after the clip
    return waveform * (_count(inside, size) / size)


def high_pass(waveform: Tensor, sample_rate: int) -> Tensor:
    """Butterworth of second order, without its delay: the mouth's timing is what matters here."""
    return filtered(waveform, sample_rate, lambda hertz: hertz**2 / (hertz**4 + HIGH_PASS_HZ**4).sqrt())


def level(waveform: Tensor, sample_rate: int) -> Tensor:
    """At `USUAL_LUFS`, by one gain for the whole clip. Peaks beyond full scale are cut."""
    loudness = integrated_loudness(waveform, sample_rate)
    if loudness is None:
        return waveform
    gain = min(max(USUAL_LUFS - loudness, -MOST_GAIN_DB), MOST_GAIN_DB)
    return (waveform * 10 ** (gain / 20)).clamp(-1, 1)


def add_noise_floor(waveform: Tensor, sample_rate: int) -> Tensor:
    """White noise under a sound that has none of its own, the same noise for every sound."""
    power = _block_means(waveform.square().mean(0), round(0.1 * sample_rate), round(0.1 * sample_rate))
    if 10 * math.log10(float(power.quantile(0.1)) + 1e-12) > CLEAN_DB:
        return waveform
    noise = torch.randn(waveform.shape[-1], generator=torch.Generator().manual_seed(0))
    return waveform + noise * 10 ** (FLOOR_DB / 20)


def integrated_loudness(waveform: Tensor, sample_rate: int) -> float | None:
    """In LUFS after ITU-R BS.1770-4: K-weighted, blocks of 400 ms, gated. None where no block is above -70."""
    weighted = filtered(waveform, sample_rate, k_weighting)
    size = round(0.4 * sample_rate)
    power = _block_means(weighted.square().sum(0), size, size // 4)
    power = power[_lufs(power) > -70]
    power = power[_lufs(power) > _lufs(power.mean()) - 10]
    return float(_lufs(power.mean())) if len(power) else None


def k_weighting(hertz: Tensor) -> Tensor:
    """The magnitude of BS.1770's two filters, a shelf and a high-pass, as analogue prototypes.

    Their constants are those that libebur128 derived from the standard's coefficients at 48 kHz.
    """
    s = torch.complex(torch.zeros_like(hertz), hertz / 1681.974450955533)
    gain, quality = 10 ** (3.999843853973347 / 20), 0.7071752369554196
    shelf = (gain * s**2 + gain**0.4996667741545416 / quality * s + 1) / (s**2 + s / quality + 1)
    s = torch.complex(torch.zeros_like(hertz), hertz / 38.13547087602444)
    return (shelf * s**2 / (s**2 + s / 0.5003270373238773 + 1)).abs()


def filtered(waveform: Tensor, sample_rate: int, response: Response) -> Tensor:
    """[C, N] -> [C, N] with each frequency's amplitude times `response`, its phase as it was; piece by piece."""
    reach = round(REACH * sample_rate)
    pieces = []
    for start in range(0, waveform.shape[-1], PIECE):
        piece = waveform[:, max(start - reach, 0) : start + PIECE + reach]
        size = piece.shape[-1] + 2 * reach  # silence keeps the end from reaching around to the start
        hertz = torch.fft.rfftfreq(size, 1 / sample_rate)
        whole = torch.fft.irfft(torch.fft.rfft(piece, size) * response(hertz), size)
        skipped = min(start, reach)
        pieces.append(whole[:, skipped : skipped + min(PIECE, waveform.shape[-1] - start)])
    return torch.cat(pieces, dim=-1)


def _silence(loud: Tensor, shortest: int) -> Tensor:
    """[N] bool -> [N] bool: where at least `shortest` samples in a row are not loud."""
    empty = _count(F.pad(loud, (shortest - 1, shortest - 1), value=True), shortest) == 0
    return _count(empty, shortest) > 0


def _count(mask: Tensor, size: int) -> Tensor:
    """[N] bool -> [N - size + 1]: how many of `size` neighbours are true."""
    sums = F.pad(mask.cumsum(0, dtype=torch.int32), (1, 0))
    return sums[size:] - sums[:-size]


def _block_means(power: Tensor, size: int, step: int) -> Tensor:
    """[N] -> [blocks]; a sound that is shorter than a block is one."""
    blocks = power[None] if len(power) < size else power.unfold(0, size, step)
    return blocks.mean(-1)


def _lufs(power: Tensor) -> Tensor:
    return -0.691 + 10 * torch.log10(power + 1e-12)
