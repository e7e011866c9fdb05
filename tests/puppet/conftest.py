"""Short films of the puppet: two seconds in few steps, so that a test takes seconds on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.media.read_video import read_frames
from ltx_a2v.media.sound.prepare import load_audio
from ltx_a2v.media.sync import Sync, measure_sync
from ltx_a2v.puppet.examples import FACE, PROMPT, SPEECH

SHORT = {"width": 256, "height": 256, "num_frames": 49, "num_inference_steps": 6}


@dataclass(frozen=True)
class Film:
    path: Path
    frames: Tensor
    """uint8 [F, H, W, 3]"""
    waveform: Tensor
    """[2, N]"""
    sample_rate: int

    @classmethod
    def open(cls, path: Path) -> Film:
        frames = read_frames(path)
        sound = load_audio(path, 0.0, len(frames) / 24)
        return cls(path, frames, sound.waveform, sound.sample_rate)

    def sync(self, shift: int = 0, max_lag: int = 2) -> Sync:
        """With the sound `shift` frames later than in the file."""
        waveform = torch.roll(self.waveform, round(shift * self.sample_rate / 24), dims=-1)
        return measure_sync(self.frames, waveform, self.sample_rate, max_lag=max_lag)


FilmIt = Callable[..., Film]


def short_request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": PROMPT, "image": FACE, "audio": SPEECH, **SHORT, **fields})


@pytest.fixture(scope="session")
def puppet(puppet_model: ModelPaths) -> A2VPipeline:
    return A2VPipeline.open(puppet_model, device="cpu")


@pytest.fixture(scope="session")
def film(puppet: A2VPipeline, tmp_path_factory: pytest.TempPathFactory) -> FilmIt:
    """Films with the example's face and sound, or with fields of its own, by another pipeline where one is given."""
    folder = tmp_path_factory.mktemp("films")

    def make(pipeline: A2VPipeline | None = None, **fields: Any) -> Film:
        path = folder / f"{len(list(folder.iterdir()))}.mp4"
        torch.set_num_threads(2)
        (pipeline or puppet).run(short_request(output_path=path, **fields))
        return Film.open(path)

    return make


@pytest.fixture(scope="session")
def speaking(film: FilmIt) -> Film:
    """The example."""
    return film()
