"""`ltx-a2v get` with a hub that hands out toy files; nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltx_a2v.cli import get
from ltx_a2v.cli.main import main


class Hub(ModuleType):
    """Stands in for huggingface_hub; `fails` is what it raises."""

    def __init__(self) -> None:
        super().__init__("huggingface_hub")
        self.asked: list[tuple[str, str]] = []
        self.fails: Exception | None = None
        self.cut = 0
        self.errors = ModuleType("huggingface_hub.errors")
        for name in ("GatedRepoError", "EntryNotFoundError", "HfHubHTTPError"):
            setattr(self.errors, name, type(name, (OSError,), {}))

    def hf_hub_download(self, repository: str, file: str, local_dir: Path) -> None:
        self._write(repository, local_dir / file)

    def snapshot_download(self, repository: str, local_dir: Path, ignore_patterns: list[str]) -> None:
        self._write(repository, local_dir / "model.safetensors")
        (local_dir / "config.json").write_text("{}")

    def _write(self, repository: str, path: Path) -> None:
        self.asked.append((repository, path.name))
        if self.fails:
            raise self.fails
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": torch.zeros(4)}, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size - self.cut])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub.errors)
    monkeypatch.setattr(get, "find_spec", lambda _: object())
    return hub


def test_printing_downloads_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--dir", str(tmp_path), "--print"]) == get.MISSING
    shown = capsys.readouterr().out
    assert f"hf download Lightricks/LTX-2.3 ltx-2.3-22b-dev.safetensors --local-dir {tmp_path}" in shown
    assert "hf download google/gemma-3-12b-it-qat-q4_0-unquantized --local-dir" in shown
    assert "Licences:" in shown
    assert hub.asked == []


def test_only_what_is_missing_or_cut_is_downloaded(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "--dir", str(tmp_path)]) == 0
    assert len(hub.asked) == 4
    assert main(["get", "--dir", str(tmp_path)]) == 0
    assert len(hub.asked) == 4
    lora = tmp_path / "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
    lora.write_bytes(lora.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["get", "--dir", str(tmp_path), "--print"]) == get.MISSING
    size = lora.stat().st_size
    assert f"{lora.name}: not whole: {size} of {size + 1} bytes" in capsys.readouterr().out
    assert main(["get", "--dir", str(tmp_path)]) == 0
    assert hub.asked[4:] == [("Lightricks/LTX-2.3", lora.name)]


def test_what_stops_a_download(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for error, says in (
        (hub.errors.GatedRepoError(), "asks for its terms to be accepted"),
        (hub.errors.EntryNotFoundError(), "has no file ltx-2.3-22b-dev.safetensors"),
        (ConnectionError("no route to host"), "The download stopped: no route to host; run the command again"),
        (PermissionError(13, "Permission denied"), "cannot be written (Permission denied)"),
    ):
        hub.fails = error
        assert main(["get", "--dir", str(tmp_path)]) in (1, 2)
        assert says in capsys.readouterr().err.splitlines()[-1]
    hub.fails, hub.cut = None, 1
    assert main(["get", "--dir", str(tmp_path)]) == 1
    assert "Not whole after the download" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["get", "--dir", str(tmp_path / "new")]) == 1
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    monkeypatch.setattr(get, "find_spec", lambda _: None)
    assert main(["get", "--dir", str(tmp_path / "new")]) == 2
    assert "pip install 'WHEEL[get]'" in capsys.readouterr().err
