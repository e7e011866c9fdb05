"""The miniature model and pictures and sounds to feed it, made once per run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ltx_a2v import A2VPipeline, GenerationRequest, ModelPaths
from ltx_a2v.hardware import driver
from ltx_a2v.miniature import ensure_miniature
from ltx_a2v.puppet.files import ensure_puppet
from tests import nvml

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest ones first, so that no worker is left alone with them."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _reproducible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Equal requests give equal bytes in all tests, and in the processes that they start: marks are not signed.

    `marked` in tests/marks is for tests of what is signed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTX_A2V_REPRODUCIBLE", "1")
        patch.setenv("LTX_A2V_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """For every test: a sum over another number of threads has other bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("LTX_A2V_MODEL_DIR", raising=False)
    monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return ensure_miniature(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="session")
def puppet_model(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    """The miniature that ships."""
    return ensure_puppet(tmp_path_factory.mktemp("puppet"))


@pytest.fixture(scope="session")
def pipeline(model: ModelPaths) -> A2VPipeline:
    return A2VPipeline.open(model, device="cpu")


@pytest.fixture
def request_fields(tmp_path: Path) -> dict[str, object]:
    """A small request that takes about a second."""
    return {
        "prompt": "A robot speaks to the camera.",
        "image": ROOT / "examples" / "robot.png",
        "audio": ROOT / "examples" / "speech.wav",
        "output_path": tmp_path / "video.mp4",
        "width": 128,
        "height": 64,
        "num_frames": 9,
        "num_inference_steps": 2,
    }


@pytest.fixture
def small_request(request_fields: dict[str, object]) -> GenerationRequest:
    return GenerationRequest(**request_fields)


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "nvml.json"
    file.write_text(json.dumps(nvml.ANSWERS))
    monkeypatch.setenv("NVML_ANSWERS", str(file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.syspath_prepend(str(nvml.STUB))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    driver._nvml.cache_clear()
    yield file
    driver._nvml.cache_clear()
    sys.modules.pop("pynvml", None)
