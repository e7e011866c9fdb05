"""A model of the real shapes with random weights: 48 blocks, 22 billion parameters, Gemma 3 12B; about 78 GB.

For measuring size and speed where the real files cannot be had. `python scripts/full_size_model.py FOLDER [FOLDER_2]`
puts the text encoder and the LoRA into the second folder. With `--headers-only` the files have their headers and sizes
but take no room on the disk, in seconds: enough for `ltx-a2v plan --device cpu --model-dir FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ltx_a2v import miniature
from ltx_a2v.checkpoint import keys
from ltx_a2v.checkpoint.config import ModelConfig
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec, header_of
from ltx_a2v.model.files import GemmaFiles
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae

TRANSFORMER = miniature.REAL_TRANSFORMER


def _residual(layers: int) -> list[object]:
    return ["res_x", {"num_layers": layers}]


VIDEO_VAE = miniature.VIDEO_VAE | {
    "decoder_base_channels": 128,
    "encoder_blocks": [
        _residual(4),
        ["compress_space_res", {"multiplier": 2}],
        _residual(6),
        ["compress_time_res", {"multiplier": 2}],
        _residual(4),
        ["compress_all_res", {"multiplier": 2}],
        _residual(2),
        ["compress_all_res", {"multiplier": 1}],
        _residual(2),
    ],
    "decoder_blocks": [
        _residual(4),
        ["compress_space", {"multiplier": 2}],
        _residual(6),
        ["compress_time", {"multiplier": 1}],
        _residual(4),
        ["compress_all", {"multiplier": 2}],
        _residual(2),
        ["compress_all", {"multiplier": 2}],
        _residual(2),
    ],
}
UPSAMPLER = miniature.UPSAMPLER | {"mid_channels": 1024, "num_blocks_per_stage": 4}
GEMMA = miniature.GEMMA | {
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 8,
    "sliding_window": 1024,
    "vocab_size": 262208,
}
LORA_RANK = 384
SUPPLY_BEYOND = 2**24
"""Numbers beyond the largest tensor, so that each begins elsewhere."""
SUPPLY_STEP = 1_000_003


def write_full_size(folder: Path, other: Path, headers_only: bool = False) -> ModelPaths:
    write = _write_header if headers_only else _write_random
    for place in (folder, other):
        place.mkdir(parents=True, exist_ok=True)
    config = ModelConfig("2.3.0", TRANSFORMER, VIDEO_VAE, miniature.AUDIO_VAE)
    gemma = other / "gemma"
    _copy_tokenizer(gemma)
    (gemma / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": GEMMA}))
    files = GemmaFiles(gemma, GEMMA, {})
    encoder = text.build_gemma(files)
    write(gemma / "model.safetensors", _shapes((KeyMap((("language_model.model.", ""),)), encoder, "")), {})
    denoiser = transformer.build_transformer(config)
    vae = keys.video_vae(config.vae_stages)
    metadata = {"transformer": TRANSFORMER, "vae": VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE}
    paths = ModelPaths(
        folder / "ltx-2.3-22b-random.safetensors",
        other / "ltx-2.3-22b-random-distilled-lora-384.safetensors",
        folder / "ltx-2.3-random-spatial-upscaler-x2.safetensors",
        gemma,
    )
    write(
        paths.checkpoint,
        _shapes(
            (keys.TRANSFORMER, denoiser, ""),
            (keys.CONNECTORS, text.build_connectors(config, 49), ""),
            (vae, video_vae.build_video_encoder(config), ""),
            (vae, video_vae.build_video_decoder(config).decoder, "decoder."),
            (keys.AUDIO_ENCODER, audio_vae.build_audio_encoder(config), ""),
        ),
        {"model_version": "2.3.0", "config": json.dumps(metadata)},
    )
    arguments = {**UPSAMPLER, "use_rational_resampler": False}
    for name in ("spatial_scale", "rational_resampler"):
        del arguments[name]
    small = upsampler.build_upsampler(arguments)
    write(paths.spatial_upsampler, _shapes((keys.UPSAMPLER, small, "")), {"config": json.dumps(UPSAMPLER)})
    write(paths.distilled_lora, _lora_shapes(transformer.linear_shapes(denoiser)), {})
    return paths


def _copy_tokenizer(gemma: Path) -> None:
    """The miniature's, without its weights."""
    with TemporaryDirectory() as small:
        source = miniature.ensure_miniature(Path(small)).gemma_root
        shutil.copytree(source, gemma, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)


def _shapes(*networks: tuple[KeyMap, nn.Module, str]) -> dict[str, tuple[int, ...]]:
    """By name in the file: modules with their maps, each after a prefix."""
    return {
        key_map.to_file(prefix + name): tuple(tensor.shape)
        for key_map, module, prefix in networks
        for name, tensor in module.state_dict().items()
    }


def _lora_shapes(layers: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (outputs, inputs) in layers.items():
        if "transformer_blocks" in layer and "to_gate_logits" not in layer:
            name = keys.LORA.to_file(layer)
            shapes[f"{name}.lora_A.weight"] = (LORA_RANK, inputs)
            shapes[f"{name}.lora_B.weight"] = (outputs, LORA_RANK)
    return shapes


def _write_header(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> None:
    """The weights are a hole in the file: they read as zeros."""
    specs = [TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()]
    header = header_of(specs, metadata)
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(spec.nbytes for spec in specs))


def _write_random(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> None:
    specs = [TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()]
    started = time.perf_counter()
    with SafetensorsWriter(path, specs, metadata) as writer:
        for name, tensor in _random(specs):
            writer.write(name, tensor)
        size = writer.nbytes
    sys.stdout.write(f"{path.name}: {size / 1e9:.1f} GB in {time.perf_counter() - started:.0f} s\n")
    sys.stdout.flush()


def _random(specs: list[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """Spread like trained weights; norms and deviations around 1. Tensors are pieces of one supply of numbers: drawing
    39 billion would take longer than writing them."""
    sizes = [math.prod(spec.shape) for spec in specs]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    supply = torch.randn(max(sizes) + SUPPLY_BEYOND, dtype=torch.bfloat16, device=device).mul_(0.02).cpu()
    for i, (spec, size) in enumerate(zip(specs, sizes, strict=True)):
        start = i * SUPPLY_STEP % SUPPLY_BEYOND
        values = supply[start : start + size].view(spec.shape)
        leaf = spec.name.rsplit(".", 1)[-1]
        yield spec.name, values + 1 if leaf == "std-of-means" or (leaf == "weight" and len(spec.shape) == 1) else values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path, nargs="?", help="for the text encoder and the LoRA")
    parser.add_argument("--headers-only", action="store_true", help="no weights: enough for `ltx-a2v plan`")
    arguments = parser.parse_args()
    write_full_size(arguments.folder, arguments.other or arguments.folder, arguments.headers_only)


if __name__ == "__main__":
    main()
