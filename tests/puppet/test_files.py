"""The puppet's file in the package, and what is said of sizes that it does not know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidModel, InvalidOutput
from ltx_a2v.puppet import SHIPPED, SIZES, puppet_paths, puppet_size, unfamiliar
from ltx_a2v.request import nearest_shape
from tests.puppet.conftest import short_request


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(SHIPPED.with_suffix(".sha256"), tmp_path)
    return Path(shutil.copy(SHIPPED, tmp_path))


def test_it_is_there_and_small() -> None:
    assert re.fullmatch(r"\d+ MB", puppet_size())
    assert SHIPPED.stat().st_size <= 25e6


@pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
def test_a_missing_file_is_named(copy: Path, suffix: str) -> None:
    path = copy.with_suffix(suffix)
    path.unlink()
    with pytest.raises(InvalidModel, match=rf"^{path}, the puppet's weights, is missing; install ltx-a2v again\.$"):
        puppet_paths(copy)


def test_a_damaged_file_is_named(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[-100] ^= 1
    copy.write_bytes(content)
    with pytest.raises(InvalidModel, match=f"^{copy}, the puppet's weights, is damaged"):
        puppet_paths(copy)


def test_it_is_unpacked_without_torch_in_this_process() -> None:
    code = "import sys; from ltx_a2v.puppet import puppet_paths; puppet_paths(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_cache_folder_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(InvalidOutput, match="Not a directory"):
        puppet_paths()


@pytest.mark.parametrize(
    ("picture", "size"),
    [((100, 100), (256, 256)), ((1920, 1080), (384, 256)), ((600, 800), (256, 384)), ((1, 32), (256, 384))],
)
def test_the_size_nearest_to_a_picture(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert nearest_shape(picture, SIZES) == size


def test_sizes_that_it_was_not_trained_for_get_a_notice(puppet_model: ModelPaths, model: ModelPaths) -> None:
    assert [unfamiliar(puppet_model, *size, 24.0) for size in SIZES] == [None] * len(SIZES)
    assert "384x384 at 24 may look wrong" in str(unfamiliar(puppet_model, 384, 384, 24.0))
    assert "256x256 at 30 may look wrong" in str(unfamiliar(puppet_model, 256, 256, 30.0))
    assert unfamiliar(model, 384, 384, 24.0) is None, "another model's sizes are not ours to judge"


@pytest.mark.slow
def test_the_notice_reaches_the_user(puppet: A2VPipeline, tmp_path: Path) -> None:
    small = {"num_frames": 9, "num_inference_steps": 1, "output_path": tmp_path / "v.mp4"}
    result = puppet.run(short_request(**small, width=128, height=192))
    assert [notice for notice in result.notices if "128x192 at 24 may look wrong" in notice]
    assert puppet.run(short_request(**small)).notices == ()
