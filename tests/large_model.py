"""A model whose blocks are as large as they can be where memory is measured: shapes of the real one, halved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx_a2v import ModelPaths
from ltx_a2v.checkpoint.reader import read_tensor
from ltx_a2v.checkpoint.safetensors_file import SafetensorsFile
from ltx_a2v.checkpoint.safetensors_writer import SafetensorsWriter, TensorSpec
from ltx_a2v.networks.text import build_connectors
from ltx_a2v.networks.transformer import build_transformer
from ltx_a2v.versions import NEWEST

LARGE = {
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "cross_attention_dim": 2048,
    "audio_num_attention_heads": 16,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 1024,
    "num_layers": 11,
    "connector_num_attention_heads": 16,
    "connector_attention_head_dim": 128,
    "audio_connector_num_attention_heads": 16,
    "audio_connector_attention_head_dim": 64,
}
HIDDEN_STATES = 4
"""Of the miniature's text encoder."""


def write_large_model(miniature: ModelPaths, folder: Path) -> ModelPaths:
    """2.3 GiB of random bf16, with the miniature's VAEs, upsampler and text encoder; the numbers repeat."""
    small = SafetensorsFile.open(miniature.checkpoint)
    content = json.loads(small.metadata["config"])
    content["transformer"].update(LARGE)
    config, keys = NEWEST.config_of("", content), NEWEST.keys
    shapes = {
        key_map.to_file(name): tuple(tensor.shape)
        for key_map, module in (
            (keys.transformer, build_transformer(config)),
            (keys.connectors, build_connectors(config, HIDDEN_STATES)),
        )
        for name, tensor in module.state_dict().items()
    }
    others = {name: entry for name, entry in small.tensors.items() if "vae" in name.split(".")[0]}
    specs = [TensorSpec(name, torch.bfloat16, shape) for name, shape in shapes.items()]
    specs += [TensorSpec(name, entry.dtype, entry.shape) for name, entry in others.items()]
    tile = torch.randn(2**22, dtype=torch.bfloat16) * 0.02

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for spec in specs:
            name, count = spec.name, spec.nbytes // 2
            yield (
                name,
                read_tensor(others[name])
                if name in others
                else tile.repeat(-(-count // len(tile)))[:count].view(spec.shape),
            )

    path = folder / "ltx-2.3-large.safetensors"
    with SafetensorsWriter(path, specs, {**small.metadata, "config": json.dumps(content)}) as writer:
        for name, tensor in tensors():
            writer.write(name, tensor)
    lora = folder / "large-distilled-lora.safetensors"
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_A.weight": torch.ones(1, 2048), f"{layer}.lora_B.weight": torch.ones(2048, 1)}, lora)
    return replace(miniature, checkpoint=path, distilled_lora=lora)
