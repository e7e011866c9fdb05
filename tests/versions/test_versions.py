"""What a version decides stands in its file alone, and one that differs a little is made of another."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ltx_a2v import miniature, versions
from ltx_a2v.errors import InvalidModel
from ltx_a2v.versions import NEWEST, VERSIONS, ModelVersion, version_of
from tests.conftest import ROOT

SOURCE = ROOT / "src" / "ltx_a2v"
SECTIONS = {"transformer": miniature.TRANSFORMER, "vae": miniature.VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE}
FILE = Path("model.safetensors")


def chosen(model_version: str) -> ModelVersion:
    return version_of(FILE, {"model_version": model_version}, SECTIONS)


def test_a_checkpoint_takes_the_newest_version_it_is_at_or_above(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(NEWEST, name="LTX-2.9")
    monkeypatch.setattr(versions, "VERSIONS", (((2, 9), newer), *VERSIONS))
    assert [chosen(said).name for said in ("2.1", "2.3.0", "2.8", "2.9.1", "2.10")] == [
        *[NEWEST.name] * 3,
        *["LTX-2.9"] * 2,
    ]


def test_a_version_made_of_another_reaches_the_config() -> None:
    small = replace(NEWEST, defaults=replace(NEWEST.defaults, width=128, height=64))
    config = small.config_of("2.3.0", SECTIONS)
    assert config.version is small
    assert (config.version.defaults.width, config.version.defaults.seed) == (128, NEWEST.defaults.seed)
    assert config.connectors_arguments(4)["text_proj_in_factor"] == 4


def test_what_is_not_of_the_version_is_refused() -> None:
    older = {**SECTIONS, "transformer": {**miniature.TRANSFORMER, "cross_attention_adaln": False}}
    with pytest.raises(InvalidModel, match=r"is LTX-2\.0\.1, whose architecture is older"):
        version_of(FILE, {"model_version": "2.0.1"}, older)
    with pytest.raises(InvalidModel, match="has no transformer and vae section"):
        version_of(FILE, {"model_version": "2.3.0"}, {"audio_vae": {}})
    with pytest.raises(InvalidModel, match="has no model_version"):
        version_of(FILE, {}, SECTIONS)


def test_requests_are_filled_in_without_torch() -> None:
    code = "import sys, ltx_a2v.versions, ltx_a2v.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


MODELS = {"versions", "miniature.py", "puppet", "bench"}
"""Where a version or a model is described."""
OF_THE_MODEL = {"diffusion", "model", "networks", "planning", "prompts", "pipeline.py", "session.py", "request.py"}
"""Where 128 and 1024 would be latent channels and text tokens."""


def files() -> Iterator[tuple[str, str, ast.Module]]:
    """Room, name and syntax of every file."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).parts[0], path.name, ast.parse(path.read_text())


def test_nothing_else_names_a_version() -> None:
    """Docstrings may: they speak of the product."""
    found = []
    for room, name, tree in files():
        told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree) if room not in MODELS else ():
            text = node.value if isinstance(node, ast.Constant) and id(node) not in told else getattr(node, "id", "")
            if any(version in str(text).lower() for version in ("2.3", "2_3")):
                found.append(f"{name}:{node.lineno} {text}")
    assert found == []


def test_nothing_else_counts_latent_channels() -> None:
    found = []
    for _, name, tree in (file for file in files() if file[0] in OF_THE_MODEL):
        powers = (node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.right, ast.BinOp))
        sizes = {id(node.left) for node in powers if isinstance(node.right.op, ast.Pow)}  # 128 * 2**20 bytes
        found += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in (128, 1024) and id(node) not in sizes
        ]
    assert found == []
