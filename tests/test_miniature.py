"""The random miniature that tests use is made whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx_a2v import miniature
from ltx_a2v.errors import InvalidOutput


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidOutput, match="Not a directory"):
        miniature.ensure_miniature(tmp_path / "file")


def test_an_interrupted_one_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(path: Path, content: object) -> None:
        assert path.parent.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(miniature, "_write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        miniature.ensure_miniature(tmp_path)
    assert list(tmp_path.iterdir()) == []
