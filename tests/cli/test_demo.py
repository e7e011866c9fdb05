"""`ltx-a2v demo` and the miniature model that it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltx_a2v import miniature
from ltx_a2v.cli.main import main


def test_a_cache_folder_that_is_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LTX_A2V_CACHE_DIR", str(tmp_path / "file"))
    assert main(["demo", "--output-path", str(tmp_path / "v.mp4")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_an_interrupted_miniature_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(path: Path, content: object) -> None:
        assert path.parent.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(miniature, "_write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        miniature.ensure_miniature(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ltx_a2v.cli.main", "demo", "--output-path", str(tmp_path / "demo.mp4")],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "demo.mp4"))
