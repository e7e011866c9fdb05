"""Packing keeps the weights, and what ships unpacks to a model that opens."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ltx_a2v import A2VPipeline
from ltx_a2v.puppet.files import ensure_puppet, pack, unpack


def test_it_opens_and_is_unpacked_once(tmp_path: Path) -> None:
    paths = ensure_puppet(tmp_path)
    written = paths.checkpoint.stat().st_mtime_ns
    assert A2VPipeline.open(paths, device="cpu").model_version.startswith("2.3")
    assert ensure_puppet(tmp_path).checkpoint.stat().st_mtime_ns == written


def test_there_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {"large": torch.randn(64, 128).bfloat16(), "flat": torch.randn(128).bfloat16()}
    save_file(tensors, folder / "a.safetensors", {"config": "{}"})
    (folder / "b.json").write_text("{}")
    pack(folder, tmp_path / "one.safetensors")
    unpack(tmp_path / "one.safetensors", tmp_path / "again")
    found = load_file(tmp_path / "again" / "a.safetensors")
    assert torch.equal(found["flat"], tensors["flat"])
    error = (found["large"].float() - tensors["large"].float()).norm() / tensors["large"].float().norm()
    assert error < 0.012
    assert (tmp_path / "again" / "b.json").read_text() == "{}"
