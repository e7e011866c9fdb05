"""A marked video, made once, and the folder of the key that it was signed with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from ltx_a2v import A2VPipeline, GenerationRequest, GenerationResult, LoadOptions, ModelPaths
from ltx_a2v.marks.marking import Marking
from tests.conftest import ROOT


class Made(NamedTuple):
    """A video and what made it."""

    pipeline: A2VPipeline
    request: GenerationRequest
    result: GenerationResult

    @property
    def path(self) -> Path:
        return self.result.output_path


@pytest.fixture(scope="session")
def made(model: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Made:
    pipeline = A2VPipeline.open(model, device="cpu", options=LoadOptions(marking=Marking(reproducible=False)))
    request = GenerationRequest(
        prompt="A secret prompt.",
        image=ROOT / "examples" / "robot.png",
        audio=ROOT / "examples" / "speech.wav",
        output_path=tmp_path_factory.mktemp("marked") / "video.mp4",
        width=128,
        height=64,
        num_frames=9,
        num_inference_steps=2,
        seed=7,
        guidance={"cfg": 2.5},
    )
    return Made(pipeline, request, pipeline.run(request))


@pytest.fixture
def signed(made: Made, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "signed.mp4"
    copy.write_bytes(made.path.read_bytes())
    return copy


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation without a key."""
    folder = tmp_path / "data"
    monkeypatch.setenv("LTX_A2V_DATA_DIR", str(folder))
    return folder
