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
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.errors import InvalidModel
from ltx_a2v.model.files import ModelFiles

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


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(4)


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
        "lacks 1 tensor (model.diffusion_model.transformer_blocks.1.attn1.to_q.weight)",
        "has 1 unknown tensor (model.diffusion_model.transformer_blocks.1.attn1.to_surprise.weight)",
    )
    path = rewrite(model.checkpoint, path, lambda tensors: tensors.update({"unet.weight": torch.zeros(1)}))
    refused(replace(model, checkpoint=path), "1 tensor (unet.weight)", "another model")
    vae = "vae.encoder.down_blocks.0."
    path = rewrite(model.checkpoint, path, lambda t: [t.pop(name) for name in list(t) if name.startswith(vae)])
    refused(replace(model, checkpoint=path), f"({vae}res_blocks.0.conv1.conv.bias")
    prefix = "model.diffusion_model.transformer_blocks.1."
    path = rewrite(model.checkpoint, path, lambda t: [t.pop(name) for name in list(t) if name.startswith(prefix)])
    refused(replace(model, checkpoint=path), f"({prefix}attn1.k_norm.weight, ", ", ...)")


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


def test_configs_that_no_model_of_ours_has(model: ModelPaths, tmp_path: Path) -> None:
    metadata = dict(SafetensorsFile.open(model.checkpoint).metadata)
    for section, name, value, says in (
        ("transformer", "num_attention_heads", None, "'num_attention_heads' is missing"),
        ("transformer", "num_layers", "four", "four"),
        ("transformer", "num_attention_heads", [2], "config"),
        ("transformer", "positional_embedding_max_pos", [20], "index"),
        ("transformer", "rope_type", "spiral", "spiral"),
        ("vae", "encoder_blocks", [["res_x"]], "unpack"),
        ("vae", "patch_size", "4", "config"),
        ("audio_vae", "preprocessing", {}, "'stft' is missing"),
        ("audio_vae", "model", 3, "subscriptable"),
    ):
        config = json.loads(metadata["config"])
        config[section][name] = value
        if value is None:
            del config[section][name]
        changed = metadata | {"config": json.dumps(config)}
        path = rewrite(model.checkpoint, tmp_path / "c.safetensors", lambda t: None, changed)
        refused(replace(model, checkpoint=path), f"{path} has a config that no LTX-2.3 model has", says)
    config = json.dumps({"spatial_upsample": True, "spatial_scale": 2.0, "mid_channels": "many"})
    path = rewrite(model.spatial_upsampler, tmp_path / "u.safetensors", lambda t: None, {"config": config})
    refused(replace(model, spatial_upsampler=path), f"{path} has a config that no LTX-2.3 model has")


def test_tensors_of_another_dtype(model: ModelPaths, tmp_path: Path) -> None:
    """Floats become one another; integers in a float's place would be read as weights."""
    name = "model.diffusion_model.proj_out.weight"
    path = tmp_path / "c.safetensors"
    for dtype in (torch.float32, torch.float16):
        rewrite(model.checkpoint, path, lambda t, dtype=dtype: t.update({name: t[name].to(dtype)}))
        A2VPipeline.open(replace(model, checkpoint=path), device="cpu")
    rewrite(model.checkpoint, path, lambda t: t.update({name: t[name].to(torch.int8)}))
    refused(replace(model, checkpoint=path), str(path), f"{name!r} is torch.int8")
    path = tmp_path / "l.safetensors"
    rewrite(model.distilled_lora, path, lambda t: t.update({k: v.to(torch.float8_e4m3fn) for k, v in t.items()}))
    refused(replace(model, distilled_lora=path), str(path), "torch.float8_e4m3fn")


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
        (with_header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "not JSON"),
        (with_header(b'{"__metadata__": null}'), "__metadata__"),
        (with_header(b'{"__metadata__": ["config"]}'), "__metadata__"),
        (with_header(b'{"__metadata__": {"config": 3}}'), "__metadata__"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}'), "'a' is described as"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}'), "'a' is described as"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}'), "'a' is described as"),
        (with_header(b'{"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}'), "'a' is described as"),
    ):
        path.write_bytes(content)
        refused(replace(model, checkpoint=path), says, str(path))
    refused(replace(model, checkpoint=tmp_path / "none.safetensors"), "does not exist")
    refused(replace(model, checkpoint=tmp_path), "is not a file")
    refused(replace(model, checkpoint=tmp_path / ("a" * 300)), "cannot be read: File name too long")
    refused(replace(model, gemma_root=tmp_path / ("a" * 300)), "cannot be read: File name too long")


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
        ({f"{layer}.lora_A.weight": down[0], f"{layer}.lora_B.weight": up}, "lora_A.weight' has shape [256]"),
        ({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up[None]}, "lora_B.weight' has shape [1, 256, 4]"),
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


def test_text_encoders_for_other_models(model: ModelPaths, tmp_path: Path) -> None:
    folder = shutil.copytree(model.gemma_root, tmp_path / "gemma")
    paths = replace(model, gemma_root=folder)
    config = json.loads((folder / "config.json").read_text())
    for changes, says in (
        ({"num_hidden_layers": None}, "does not say num_hidden_layers"),
        ({"num_hidden_layers": "3"}, "does not say num_hidden_layers ('3')"),
        ({"hidden_size": 65}, f"and {model.checkpoint} do not belong together: the text encoder's hidden size is 65"),
        ({"num_hidden_layers": 2}, f"and {model.checkpoint} do not belong together: the text encoder has 2 layers"),
        ({"rope_scaling": 3}, "config.json has a config"),
        ({"hidden_activation": "none"}, "config.json has a config"),
    ):
        text = {**config["text_config"], **changes}
        (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
        refused(paths, str(folder), says)
    (folder / "config.json").write_text(json.dumps({**config, "text_config": None}))
    refused(paths, "text_config is None")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["beyond"] = 320
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(paths, str(folder), "it has token 320, the weights end at 319")


def test_discovery_by_name(model: ModelPaths, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(model.checkpoint.parent, folder / "LTX-2.3")
    found = ModelPaths.discover(str(folder))
    assert found == ModelPaths.discover(folder, checkpoint=str(found.checkpoint))
    assert ModelFiles.open(found).config.num_layers == 4
    (folder / "ltx-2.3-22b-dev-fp8.safetensors").write_bytes(b"")
    with pytest.raises(InvalidModel, match=r"more than one checkpoint.*--checkpoint-path"):
        ModelPaths.discover(folder)
    assert ModelPaths.discover(folder, checkpoint=model.checkpoint).checkpoint == model.checkpoint
    with pytest.raises(InvalidModel, match=r"No checkpoint .* was found"):
        ModelPaths.discover(tmp_path / "models" / "LTX-2.3" / "gemma-miniature")
    with pytest.raises(InvalidModel, match="does not exist"):
        ModelPaths.discover(tmp_path / "nowhere")
    with pytest.raises(InvalidModel, match="is a file, not a folder"):
        ModelPaths.discover(found.checkpoint)
    refused(replace(model, gemma_root=model.checkpoint), "is a file, not a folder")
