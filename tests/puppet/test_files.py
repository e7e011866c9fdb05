"""The puppet's files in the package, and what is said of sizes that it does not know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import A2VPipeline
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.errors import InvalidModel
from ltx_a2v.puppet import MODEL, SIZES, SUMS, nearest_size, puppet_paths, puppet_size, unfamiliar
from tests.puppet.conftest import short_request

CHECKPOINT = puppet_paths().checkpoint.name


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def test_they_are_there_and_small() -> None:
    assert re.fullmatch(r"\d+ MB", puppet_size())
    listed = {path for path in MODEL.rglob("*") if path.is_file()} - {MODEL / SUMS}
    assert sum(path.stat().st_size for path in listed) <= 25e6
    assert (MODEL / SUMS).read_text().count("\n") == len(listed), "each file is listed"


@pytest.mark.parametrize("name", [CHECKPOINT, "gemma-puppet/tokenizer.json", SUMS])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InvalidModel, match=rf"{re.escape(name)} .*No such file.*install ltx-a2v again\.$"):
        puppet_paths(copy)


def test_a_damaged_file_is_named(copy: Path) -> None:
    path = copy / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match=rf"{CHECKPOINT} of the miniature model is damaged"):
        puppet_paths(copy)


def test_no_torch_is_imported() -> None:
    code = "import sys; from ltx_a2v.puppet import puppet_paths; puppet_paths(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("picture", "size"),
    [((100, 100), (256, 256)), ((1920, 1080), (384, 256)), ((600, 800), (256, 384)), ((1, 32), (256, 384))],
)
def test_the_size_nearest_to_a_picture(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert nearest_size(*picture) == size


def test_sizes_that_it_was_not_trained_for_get_a_notice(copy: Path) -> None:
    paths = puppet_paths()
    assert [unfamiliar(paths, *size, 24.0) for size in SIZES] == [None] * len(SIZES)
    assert "384x384 at 24 may look wrong" in str(unfamiliar(paths, 384, 384, 24.0))
    assert "256x256 at 30 may look wrong" in str(unfamiliar(paths, 256, 256, 30.0))
    assert unfamiliar(ModelPaths.discover(copy), 384, 384, 24.0) is None, "another model's sizes are not ours to judge"


@pytest.mark.slow
def test_the_notice_reaches_the_user(puppet: A2VPipeline, tmp_path: Path) -> None:
    small = {"num_frames": 9, "num_inference_steps": 1, "output_path": tmp_path / "v.mp4"}
    result = puppet.run(short_request(**small, width=128, height=192))
    assert [notice for notice in result.notices if "128x192 at 24 may look wrong" in notice]
    assert puppet.run(short_request(**small)).notices == ()
