"""Models with random weights, in the files of a real one: for measuring size and speed without the published files.

`full` has the real shapes: 48 blocks, 22 billion parameters, Gemma 3 12B, the LoRA; about 78 GB. `tiny` is the
miniature. With `headers_only` the full files have their headers and sizes but take no room on the disk: enough for a
plan.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ltx_a2v import miniature
from ltx_a2v.checkpoint.gemma import GemmaFiles
from ltx_a2v.checkpoint.keys import KeyMap
from ltx_a2v.checkpoint.paths import ModelPaths
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec, header_of
from ltx_a2v.errors import InvalidOutput
from ltx_a2v.networks import audio_vae, text, transformer, upsampler, video_vae
from ltx_a2v.versions.ltx_2_3 import LTX_2_3

Say = Callable[[str], None]
Shapes = Mapping[str, tuple[int, ...]]

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


def write_tiny(folder: Path) -> ModelPaths:
    """The miniature's files. Raises `InvalidOutput` where they cannot be written."""
    with _refusals(folder):
        miniature.make_miniature(folder)
    return ModelPaths.discover(folder)


def write_full_size(
    folder: Path, other: Path | None = None, headers_only: bool = False, say: Say = lambda _: None
) -> ModelPaths:
    """The text encoder and the LoRA (35 GB) go to `other`, where one is given; `say` hears of every file.

    Raises `InvalidOutput` where the files cannot be written.
    """
    other = other or folder
    paths = ModelPaths(
        folder / "ltx-2.3-22b-random.safetensors",
        other / "ltx-2.3-22b-random-distilled-lora-384.safetensors",
        folder / "ltx-2.3-random-spatial-upscaler-x2.safetensors",
        other / "gemma",
    )
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _copy_tokenizer(paths.gemma_root)
        (paths.gemma_root / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": GEMMA}))
        for path, shapes, metadata in _full_size_files(paths):
            if headers_only:
                _write_header(path, shapes, metadata)
            else:
                _write_random(path, shapes, metadata, say)
    return paths


def _full_size_files(paths: ModelPaths) -> Iterator[tuple[Path, Shapes, Mapping[str, str]]]:
    """Each file with its tensors and its metadata."""
    sections = {"transformer": TRANSFORMER, "vae": VIDEO_VAE, "audio_vae": miniature.AUDIO_VAE}
    config, keys = LTX_2_3.config_of(miniature.MODEL_VERSION, sections), LTX_2_3.keys
    gemma = GemmaFiles(paths.gemma_root, GEMMA, {})
    in_gemma = KeyMap((("language_model.model.", ""),))
    yield paths.gemma_root / "model.safetensors", _shapes((in_gemma, text.build_gemma(gemma), "")), {}
    denoiser = transformer.build_transformer(config)
    vae = keys.video_vae(config.vae_stages)
    networks = (
        (keys.transformer, denoiser, ""),
        (keys.connectors, text.build_connectors(config, text.hidden_state_count(gemma)), ""),
        (vae, video_vae.build_video_encoder(config), ""),
        (vae, video_vae.build_video_decoder(config).decoder, "decoder."),
        (keys.audio_encoder, audio_vae.build_audio_encoder(config), ""),
    )
    metadata = {"model_version": miniature.MODEL_VERSION, "config": json.dumps(sections)}
    yield paths.checkpoint, _shapes(*networks), metadata
    small = upsampler.build_upsampler(miniature.upsampler_arguments(UPSAMPLER))
    yield paths.spatial_upsampler, _shapes((keys.upsampler, small, "")), {"config": json.dumps(UPSAMPLER)}
    assert paths.distilled_lora is not None, "a model with random weights has one"
    yield paths.distilled_lora, _lora_shapes(transformer.linear_shapes(denoiser)), {}


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidOutput(
            f"The model cannot be written to {folder} ({error.strerror}); choose another folder."
        ) from error


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


def _lora_shapes(layers: Shapes) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (outputs, inputs) in layers.items():
        if "transformer_blocks" in layer and "to_gate_logits" not in layer:
            name = LTX_2_3.keys.lora.to_file(layer)
            shapes[f"{name}.lora_A.weight"] = (LORA_RANK, inputs)
            shapes[f"{name}.lora_B.weight"] = (outputs, LORA_RANK)
    return shapes


def _write_header(path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> None:
    """The weights are a hole in the file: they read as zeros."""
    specs = [TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()]
    header = header_of(specs, metadata)
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(spec.nbytes for spec in specs))


def _write_random(path: Path, shapes: Shapes, metadata: Mapping[str, str], say: Say) -> None:
    specs = [TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()]
    started = time.perf_counter()
    with SafetensorsWriter(path, specs, metadata) as writer:
        for name, tensor in _random(specs):
            writer.write(name, tensor)
        size = writer.nbytes
    say(f"{path.name}: {size / 1e9:.1f} GB in {time.perf_counter() - started:.0f} s")


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
