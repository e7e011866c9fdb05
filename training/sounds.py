"""Sounds to talk to, and the mouth that belongs to them.

    python training/sounds.py --minutes 20     speech of espeak-ng's voices -> training/checkpoints/speech.npz

Everything else (pauses, levels, pitch, noise, tones, silence) is drawn while training.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import subprocess
import wave
from pathlib import Path

import numpy as np
import torch
from faces import FRAME_RATE, smooth
from torch import Tensor

RATE = 16000
HELD_OUT = 0.1
"""The corpus's last part, whose sentences and voices are never trained on."""
CORPUS = Path(__file__).parent / "checkpoints" / "speech.npz"

_LANGUAGES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbcwmd")
_VARIANTS = ("", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8")
_UNSEEN_VARIANTS = ("+f2", "+m7")
_WHO = "the teacher|my sister|a young sailor|our neighbour|the old clock|every student|a small robot|the river|nobody|"
_WHO += "the singer|two friends|a quiet village|your brother|the winter sun|a yellow bird|the engineer"
_DID = (
    "walked over|carefully painted|has forgotten|wanted to see|will open|always remembers|talked about|is looking for|"
)
_DID += "could not find|sold|used to love|measured|quickly wrote down|dreamed of|carried|is going to visit"
_WHAT = (
    "the blue door|a bowl of apples|seven letters|the wide ocean|an empty room|this strange music|the answer|a bridge|"
)
_WHAT += (
    "her favourite song|the last train|a warm coat|the machine|fifty stars|his own voice|the garden|a piece of paper"
)
_WHEN = (
    "in the morning|before the storm|without a word|for many years|at five o'clock|as usual|again and again|yesterday|"
)
_WHEN += (
    "with great joy|near the harbour|under the bridge|until midnight|on a rainy day|far away from home|at school|now"
)
_START = "Hello,|Well,|I think|They say that|Oh no,|Listen,|You know,|Perhaps|Today|And then|||||"


def sentence(random_: random.Random) -> str:
    return " ".join(random_.choice(part.split("|")) for part in (_START, _WHO, _DID, _WHAT, _WHEN)) + "."


def speak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """float32 [n] at 16 kHz, peak 0.9."""
    from ltx_a2v.media.sound.prepare import resample

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    with wave.open(io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)) as file:
        raw = file.readframes(-1)  # its header does not say how long it is
        rate = file.getframerate()
    samples = torch.from_numpy(np.frombuffer(raw[: len(raw) // 2 * 2], np.int16).astype(np.float32))[None]
    samples = resample(samples, rate, RATE)[0].numpy()
    return samples * (0.9 / max(float(np.abs(samples).max()), 1e-3))


def write_corpus(path: Path, minutes: float, seed: int) -> None:
    """mu-law bytes, a second of speech in 16 kB; the held-out part has voices of its own."""
    random_ = random.Random(seed)
    parts: list[np.ndarray] = []
    wanted, length = int(minutes * 60 * RATE), 0
    while length < wanted:
        unseen = length > wanted * (1 - HELD_OUT)
        variants = _UNSEEN_VARIANTS if unseen else tuple(v for v in _VARIANTS if v not in _UNSEEN_VARIANTS)
        voice = random_.choice(_LANGUAGES) + random_.choice(variants)
        said = speak(sentence(random_), voice, random_.randint(120, 200), random_.randint(20, 80))
        pause = np.zeros(int(random_.uniform(0.05, 0.5) * RATE), np.float32)
        parts += [said, pause]
        length += len(said) + len(pause)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, speech=to_mu_law(np.concatenate(parts)))


def to_mu_law(samples: np.ndarray) -> np.ndarray:
    squeezed = np.sign(samples) * np.log1p(255 * np.abs(samples)) / math.log(256)
    return np.round(squeezed * 127).astype(np.int8)


def from_mu_law(codes: np.ndarray) -> np.ndarray:
    squeezed = codes.astype(np.float32) / 127
    return np.sign(squeezed) * np.expm1(np.abs(squeezed) * math.log(256)) / 255


class Sounds:
    """Draws waveforms; most are speech."""

    def __init__(self, path: Path, device: torch.device | str, held_out: bool = False) -> None:
        speech = from_mu_law(np.load(path)["speech"])
        split = int(len(speech) * (1 - HELD_OUT))
        self.speech = torch.from_numpy(speech[split:] if held_out else speech[:split]).to(device)
        self.device = torch.device(device)

    def draw(self, count: int, seconds: float, generator: torch.Generator, only_speech: bool = False) -> Tensor:
        """[count, seconds * 16000]; `generator` is the device's."""
        n = round(seconds * RATE)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(*(shape or (count, 1)), generator=generator, device=self.device) * (high - low) + low

        time = torch.arange(n, device=self.device) / RATE
        sound = self._speech(n, uniform(0.88, 1.15), uniform(0, 1))
        pauses = (uniform(0, 1) < 0.5).float()
        for _ in range(2):
            start, length = uniform(0, seconds), uniform(0.2, 1.0)
            sound = sound * (1 - pauses * _window(time, start, length))
        kind = uniform(0, 1)
        if not only_speech:
            sound = torch.where(kind < 0.18, _tones(time, uniform), sound)
            sound = torch.where(kind < 0.13, _bursts(time, uniform, generator), sound)
            sound = torch.where(kind < 0.10, torch.zeros_like(sound), sound)
        sound = sound * 10 ** (uniform(-9, 1) / 20)
        floor = 10 ** (uniform(-80, -52) / 20) * (uniform(0, 1) < 0.6)
        noise = torch.randn(count, n, generator=generator, device=self.device)
        return (sound + floor * noise).clamp(-1, 1)

    def _speech(self, n: int, speed: Tensor, place: Tensor) -> Tensor:
        """A piece of the corpus from `place` in 0..1, played at `speed` (its pitch follows)."""
        start = place * (len(self.speech) - 1.2 * n - 2)
        at = start.double() + speed.double() * torch.arange(n, device=self.device)
        index = at.long()
        fraction = (at - index).float()
        return self.speech[index] * (1 - fraction) + self.speech[index + 1] * fraction


def _window(time: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """1 within, with edges of 20 ms."""
    return torch.sigmoid((time - start) * 200) * torch.sigmoid((start + length - time) * 200)


def _tones(time: Tensor, uniform) -> Tensor:
    """Chords that change every few tenths of a second."""
    pitch, pace = 110 * 2 ** uniform(0, 2), uniform(2, 5)
    step = torch.floor(time * pace)
    note = pitch * 2 ** (torch.remainder(step * 5, 12) / 12)
    phase = 2 * math.pi * note * time
    decay = torch.exp(-3 * torch.remainder(time * pace, 1))
    return 0.5 * decay * sum(torch.sin(phase * harmonic) / harmonic for harmonic in (1, 2, 3, 5)) / 1.5


def _bursts(time: Tensor, uniform, generator: torch.Generator) -> Tensor:
    noise = torch.randn(uniform(0, 1).shape[0], len(time), generator=generator, device=time.device)
    gate = (torch.sin(2 * math.pi * uniform(0.4, 2) * time + uniform(0, 6)) > 0.3).float()
    return 0.15 * noise * gate


def mouth_curves(sound: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, n] at 16 kHz -> opening, width and loudness, each [B, frames] in 0..1.

    Loudness is the level within 100 ms around the frame's time, from -46 to -14 dB; the opening follows it without lag.
    Bright sound spreads the mouth, dark sound rounds it.
    """
    size = 1600
    centres = (torch.arange(frames, device=sound.device) * (RATE / FRAME_RATE)).round().long()
    padded = torch.nn.functional.pad(sound, (size // 2, size + RATE))
    window = torch.hann_window(size, device=sound.device)
    pieces = padded[:, centres[:, None] + torch.arange(size, device=sound.device)] * window
    power = pieces.square().sum(-1) / window.square().sum()
    loudness = ((10 * torch.log10(power + 1e-9) + 46) / 32).clamp(0, 1)
    spectrum = torch.fft.rfft(pieces).abs()
    hertz = torch.fft.rfftfreq(size, 1 / RATE).to(sound.device)
    voiced = spectrum * ((hertz > 200) & (hertz < 5000))
    centroid = (voiced * hertz).sum(-1) / voiced.sum(-1).clamp(min=1e-6)
    bright = ((centroid.clamp(min=1).log2() - math.log2(800)) / math.log2(2400 / 800)).clamp(0, 1)
    weight = loudness + 0.02
    width = smooth((bright * loudness + 0.5 * 0.02), 5) / smooth(weight, 5)
    opening = smooth(loudness, 3) ** 1.3
    return opening, width.clamp(0, 1), loudness


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=CORPUS)
    arguments = parser.parse_args()
    write_corpus(arguments.output, arguments.minutes, arguments.seed)
