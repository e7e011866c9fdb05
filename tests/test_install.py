"""What is built: the wheel and the sdist hold what is needed, and the command works from the wheel alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

UV = shutil.which("uv") or shutil.which(str(ROOT / ".uv" / "bin" / "uv"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="uv is not installed")]
LARGEST = 25_000_000
"""Bytes of either file: the miniature's weights take 17 MB."""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV or "", "build", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    return folder


def test_wheel_and_sdist_hold_what_is_needed_and_nothing_more(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    for needed in ("puppet/puppet.safetensors", "serving/page/index.html", "py.typed", "examples/face.png"):
        assert f"ltx_a2v/{needed}" in in_wheel
    assert {name.partition("/")[0] for name in in_wheel} == {"ltx_a2v", "ltx_a2v-0.1.0.dist-info"}
    top = {name.partition("/")[0] for name in in_sdist}
    assert top <= {
        "src",
        "examples",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert not any("__pycache__" in name for name in in_wheel | in_sdist)
    assert max(wheel.stat().st_size, sdist.stat().st_size) < LARGEST


def test_the_demo_runs_from_the_wheel(dist: Path, tmp_path: Path) -> None:
    """In an environment without the checkout; its dependencies are those of this one, as torch takes minutes."""
    (wheel,) = dist.glob("*.whl")
    venv = tmp_path / "venv"
    run(UV or "", "venv", "--quiet", "--python", sys.executable, venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    run(UV or "", "pip", "install", "--quiet", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = run(python, "-c", "import ltx_a2v; print(ltx_a2v.__file__)", cwd=tmp_path)
    assert where.startswith(str(packages))

    command = venv / "bin" / "ltx-a2v"
    assert run(command, "--version", cwd=tmp_path).startswith("ltx-a2v 0.1.0, Python 3")
    said = run(command, "demo", "--quality", "fast", cwd=tmp_path)
    assert "correlation of 0.9" in said
    assert (tmp_path / "demo.mp4").stat().st_size > 10_000
    assert (tmp_path / "demo.png").is_file()
