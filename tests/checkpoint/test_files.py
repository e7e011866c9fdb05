"""Every wrong file is refused in one sentence that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_a2v import A2VPipeline, ModelPaths
from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.model_files import ModelFiles
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import InvalidModel

Tensors = dict[str, torch.Tensor]


def rewrite(
    source: Path, target: Path, change: Callable[[Tensors], object], metadata: dict[str, str] | None = None
) -> Path:
    with safe_open(source, "pt") as file:
        old = file.metadata() or {}
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, target, metadata=old if metadata is None else metadata)
    return target


def refused(paths: ModelPaths, *says: str) -> None:
    with pytest.raises(InvalidModel) as error:
        A2VPipeline.open(paths, device="cpu")
    assert "\n" not in str(error.value)
    for part in says:
        assert part in str(error.value)


def test_header_agrees_with_the_safetensors_package(model: ModelPaths) -> None:
    ours = SafetensorsFile.open(model.checkpoint)
    theirs = load_file(model.checkpoint)
    assert ours.tensors.keys() == theirs.keys()
    assert json.loads(ours.metadata["config"])["transformer"]["num_layers"] == 4
    for name in list(theirs)[::40]:
        assert torch.equal(read_tensor(ours.tensors[name]), theirs[name])


def test_key_maps_are_one_to_one(model: ModelPaths) -> None:
    file = SafetensorsFile.open(model.checkpoint)
    maps = [keys.TRANSFORMER, keys.CONNECTORS, keys.video_vae(4), keys.AUDIO_ENCODER]
    for name in file.tensors:
        taken = [(m, m.to_module(name)) for m in maps if m.to_module(name) is not None]
        assert len(taken) == 1, name
        key_map, renamed = taken[0]
        assert key_map.to_file(renamed) == name


def test_parts_that_are_not_used_are_allowed(model: ModelPaths, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        for name in ("vocoder.ups.0.weight", "audio_vae.decoder.conv_in.weight", "vae.per_channel_statistics.channel"):
            tensors[name] = torch.zeros(2)

    path = rewrite(model.checkpoint, tmp_path / "c.safetensors", add)
    A2VPipeline.open(replace(model, checkpoint=path), device="cpu")


def test_missing_and_unknown_tensors_are_both_listed(model: ModelPaths, tmp_path: Path) -> None:
    def swap(tensors: Tensors) -> None:
        prefix = "model.diffusion_model.transformer_blocks.1.attn1."
        tensors[prefix + "to_surprise.weight"] = tensors.pop(prefix + "to_q.weight")

    path = rewrite(model.checkpoint, tmp_path / "c.safetensors", swap)
    refused(
        replace(model, checkpoint=path),
        str(path),
        "lacks transformer_blocks.1.attn1.to_q.weight",
        "unknown transformer_blocks.1.attn1.to_surprise.weight",
    )
    path = rewrite(model.checkpoint, path, lambda tensors: tensors.update({"unet.weight": torch.zeros(1)}))
    refused(replace(model, checkpoint=path), "unet.weight", "another model")


def test_a_tensor_of_another_shape(model: ModelPaths, tmp_path: Path) -> None:
    name = "model.diffusion_model.proj_out.weight"
    path = rewrite(model.checkpoint, tmp_path / "c.safetensors", lambda t: t.update({name: torch.zeros(7, 128)}))
    refused(replace(model, checkpoint=path), "proj_out.weight", "[7, 128]", "[128, 128]")


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no 'config'"),
        ({"config": "{"}, "not a JSON object"),
        ({"config": "{}", "model_version": "2.3.0"}, "not a complete LTX-2 checkpoint"),
    ],
)
def test_metadata_that_does_not_say_enough(
    model: ModelPaths, tmp_path: Path, metadata: dict[str, str], says: str
) -> None:
    path = rewrite(model.checkpoint, tmp_path / "c.safetensors", lambda t: None, metadata)
    refused(replace(model, checkpoint=path), says)


@pytest.mark.parametrize("version", ["0.9.8", "", "3.1"])
def test_other_versions(model: ModelPaths, tmp_path: Path, version: str) -> None:
    config = SafetensorsFile.open(model.checkpoint).metadata["config"]
    metadata = {"config": config} | ({"model_version": version} if version else {})
    path = rewrite(model.checkpoint, tmp_path / "c.safetensors", lambda t: None, metadata)
    refused(replace(model, checkpoint=path), "LTX-2.3 checkpoint is needed", version)


def test_truncated_and_foreign_files(model: ModelPaths, tmp_path: Path) -> None:
    whole = model.checkpoint.read_bytes()
    path = tmp_path / "c.safetensors"
    for content, says in (
        (whole[:-1000], "is truncated"),
        (whole[:5000], "truncated inside its header"),
        (b"PK\x03\x04" * 50, "not a safetensors file"),
        (b"", "not a safetensors file"),
        ((9).to_bytes(8, "little") + b"not json!", "not JSON"),
    ):
        path.write_bytes(content)
        refused(replace(model, checkpoint=path), says, str(path))
    refused(replace(model, checkpoint=tmp_path / "none.safetensors"), "does not exist")
    refused(replace(model, checkpoint=tmp_path), "is not a file")


def test_files_in_each_others_place(model: ModelPaths) -> None:
    refused(replace(model, distilled_lora=model.checkpoint), "is not a LoRA")
    refused(replace(model, spatial_upsampler=model.checkpoint), "is not a spatial x2 latent upsampler")
    refused(replace(model, checkpoint=model.spatial_upsampler), "not a complete LTX-2 checkpoint")


def test_loras_for_other_models(model: ModelPaths, tmp_path: Path) -> None:
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    path = tmp_path / "lora.safetensors"
    down, up = torch.zeros(4, 256), torch.zeros(256, 4)
    for tensors, says in (
        ({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, "256 x 256, the transformer's 128 x 128"),
        ({"unet.x.lora_A.weight": down, "unet.x.lora_B.weight": up}, "another model"),
        ({f"{layer}.lora_A.weight": down}, "no partner"),
        ({"diffusion_model.none.lora_A.weight": down, "diffusion_model.none.lora_B.weight": up}, "no layer 'none'"),
    ):
        save_file(tensors, path)
        refused(replace(model, distilled_lora=path), says)


def test_gemma_folders(model: ModelPaths, tmp_path: Path) -> None:
    folder = tmp_path / "gemma"
    paths = replace(model, gemma_root=folder)
    refused(paths, "does not exist")
    shutil.copytree(model.gemma_root, folder)
    A2VPipeline.open(paths, device="cpu")
    for file, says in (
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "no *.safetensors"),
        ("config.json", "config.json"),
    ):
        kept = (folder / file).read_bytes()
        (folder / file).unlink()
        refused(paths, says)
        (folder / file).write_bytes(kept)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refused(paths, "'llama'", "Gemma 3")


def test_discovery_by_name(model: ModelPaths, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(model.checkpoint.parent, folder / "LTX-2.3")
    found = ModelPaths.discover(folder)
    assert ModelFiles.open(found).config.num_layers == 4
    (folder / "ltx-2.3-22b-dev-fp8.safetensors").write_bytes(b"")
    with pytest.raises(InvalidModel, match=r"more than one checkpoint.*--checkpoint-path"):
        ModelPaths.discover(folder)
    assert ModelPaths.discover(folder, checkpoint=model.checkpoint).checkpoint == model.checkpoint
    with pytest.raises(InvalidModel, match=r"No checkpoint .* was found"):
        ModelPaths.discover(tmp_path / "models" / "LTX-2.3" / "gemma-miniature")
    with pytest.raises(InvalidModel, match="does not exist"):
        ModelPaths.discover(tmp_path / "nowhere")
