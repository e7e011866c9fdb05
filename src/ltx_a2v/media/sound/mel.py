"""Waveform -> log-mel spectrogram, the input of the audio VAE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_mel(
    waveform: Tensor, *, sample_rate: int = 16000, n_fft: int = 1024, hop: int = 160, n_mels: int = 64
) -> Tensor:
    """[C, N] -> [1, C, T, n_mels]: log of the magnitude in mel bands, one row per `hop` samples, T = 1 + N // hop.

    Hann windows centred on their row, edges reflected; Slaney's mel scale from 0 to half the rate, bands of equal area.
    Equal to the torchaudio transform that the model's audio VAE was trained with.
    """
    # Reflection padding by half a window needs at least half a window of samples.
    waveform = F.pad(waveform, (0, max(0, n_fft // 2 + 1 - waveform.shape[-1])))
    window = torch.hann_window(n_fft, dtype=waveform.dtype, device=waveform.device)
    spectrum = torch.stft(
        waveform, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True
    ).abs()  # [C, n_fft/2+1, T]
    bands = _mel_bands(sample_rate, n_fft, n_mels).to(waveform)
    return (spectrum.mT @ bands).clamp(min=1e-5).log().unsqueeze(0)


def _mel_bands(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """[n_fft/2+1, n_mels]: triangles between neighbouring points of Slaney's scale, each of area 1 over Hz."""
    from transformers.audio_utils import mel_filter_bank

    bands = mel_filter_bank(
        num_frequency_bins=n_fft // 2 + 1,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=sample_rate / 2,
        sampling_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bands)
